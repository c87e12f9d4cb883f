pub mod counters;
pub mod metrics;
pub mod status;
