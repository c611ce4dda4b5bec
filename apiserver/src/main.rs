//! kube-apiserver.

use std::process::ExitCode;

use apiserver::{options::Config, registry, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let config = match Config::parse(std::env::args()) {
        Ok(config) => config,
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => {
            // Nothing is left to do about a closed stderr; the exit code tells.
            let _printed = error.print();
            return ExitCode::from(64);
        }
    };
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "kube-apiserver failed");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let app = run::build(config, registry::catalog::builtin()).await?;
        app.run(async {
            if let Err(error) = run::stop_signal().await {
                tracing::error!(%error, "signals cannot be received");
            }
        })
        .await;
        Ok(())
    })
}
