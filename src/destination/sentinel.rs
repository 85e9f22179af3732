//! Microsoft Sentinel, through Azure's Logs Ingestion API.
pub mod rows;
