//! What tests of autoscalers share: a clock that starts at second 1,000,000, and upstream's default settings.

use std::time::Duration;

use jiff::Timestamp;

use crate::settings::AutoscalerSettings;

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

pub(super) fn settings() -> AutoscalerSettings {
    AutoscalerSettings {
        period: Duration::from_secs(15),
        tolerance: 0.1,
        downscale_stabilization: Duration::from_secs(300),
        cpu_initialization: Duration::from_secs(300),
        initial_readiness: Duration::from_secs(30),
        to_zero: false,
        own_tolerance: true,
        pod_level: true,
    }
}
