//! The kubelet's process: parse, build, run, and an exit code.

use std::process::ExitCode;

use kubelet::{
    options::{self, OptionsError},
    run,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let config = match options::load(std::env::args()) {
        Ok(config) => config,
        Err(OptionsError::Flags(error)) => error.exit(),
        Err(error) => {
            tracing::error!(%error, "bad configuration");
            return ExitCode::from(64);
        }
    };
    match run::build(config).await {
        Ok(app) => {
            app.run(stop()).await;
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(%error, "failed to run kubelet");
            ExitCode::FAILURE
        }
    }
}

async fn stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut term) = signal(SignalKind::terminate()) else { return };
    tokio::select! {
        _ = term.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
