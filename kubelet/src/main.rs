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
    let outcome = match run::build(config).await {
        Ok(app) => app.run().await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "failed to run kubelet");
            ExitCode::FAILURE
        }
    }
}
