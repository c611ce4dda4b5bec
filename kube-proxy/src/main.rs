//! kube-proxy's process: parse, build, run, and an exit code.

use std::process::ExitCode;

use component_base::{
    daemon,
    logging::{self, Format},
};
use kube_proxy::{
    options::{self, OptionsError},
    run, sync, sysctl,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    daemon::use_small_pages();
    let config = match options::load(std::env::args()) {
        Ok(config) => config,
        Err(OptionsError::Flags(error)) => error.exit(),
        Err(error) => {
            logging::init(Format::Text, 0, Vec::new());
            tracing::error!(%error, "bad configuration");
            return ExitCode::from(64);
        }
    };
    logging::init(config.log_format, config.verbosity, Vec::new());
    let outcome = if config.cleanup {
        sync::cleanup().map_err(run::RunError::from)
    } else if config.init_only {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        sysctl::apply(&sysctl::wanted(&config.file, cores));
        Ok(())
    } else {
        match run::build(config).await {
            Ok(app) => app.run().await,
            Err(error) => Err(error),
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            tracing::error!(%error, cause, "kube-proxy ends");
            ExitCode::FAILURE
        }
    }
}
