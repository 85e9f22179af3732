//! Pulumi Cloud: the only place that knows its words.
//!
//! [`wire`] reads and writes its JSON and its query strings; [`client`] asks for pages; [`token`] holds the access tokens, and
//! [`exchange`] those that are had for a token of the platform; [`environment`] reads secrets out of ESC; [`budget`] keeps within a
//! rate that bothers nobody; [`service_clock`] knows what time it is there.

pub mod budget;
pub mod client;
pub mod environment;
pub mod exchange;
pub mod service_clock;
pub mod token;
pub mod wire;
