//! Pulumi Cloud: the only place that knows its words.
//!
//! [`wire`] reads and writes its JSON and its query strings; [`client`] asks for pages; [`token`] holds the access tokens;
//! [`budget`] keeps within a rate that bothers nobody; [`service_clock`] knows what time it is there.

pub mod budget;
pub mod client;
pub mod service_clock;
pub mod token;
pub mod wire;
