//! Telemetry: one record each report interval, for those who watch the log (`config.md` §4).

use std::sync::Arc;

use protocol::config::LogLevel;

use super::shared::Shared;
use crate::log::EVENT;
use crate::stats::Snapshot;
use crate::timer::Timer;

/// Starts what happens each report interval, if anything does.
pub(super) fn start(shared: &Arc<Shared>) {
    if shared.targets.wants_probes() {
        let shared = Arc::clone(shared);
        let of_task = Arc::clone(&shared);
        shared.spawn_control(async move { of_task.targets.probe(&of_task.stats).await });
    }
    // A tunnel at rest is to use no CPU, so nothing ticks for records that nobody sees.
    if matches!(shared.config.log, LogLevel::Debug | LogLevel::Event) {
        let of_task = Arc::clone(shared);
        shared.spawn_control(async move { records(&of_task).await });
    }
}

async fn records(shared: &Shared) {
    loop {
        Timer::after(shared.config.env.report_interval).await;
        let Snapshot {
            ping,
            idle,
            tcps,
            udps,
            tcp_rx,
            tcp_tx,
            udp_rx,
            udp_tx,
            ..
        } = shared.stats.snapshot();
        let mode = shared.running.mode();
        tracing::info!(
            target: EVENT,
            "CHECK_POINT|MODE={mode}|PING={ping}ms|POOL={idle}|TCPS={tcps}|UDPS={udps}\
             |TCPRX={tcp_rx}|TCPTX={tcp_tx}|UDPRX={udp_rx}|UDPTX={udp_tx}"
        );
    }
}
