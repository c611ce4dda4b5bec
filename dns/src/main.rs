//! kube-dns.

use std::{io::Write, process::ExitCode, time::Duration};

use component_base::{daemon, shutdown, task::Tasks};
use dns::{
    options::{self, Asked, Config},
    run,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    daemon::use_small_pages();
    let config = match options::parse(std::env::args().skip(1)) {
        Ok(Asked::Serve(config)) => config,
        Ok(Asked::Print(text)) => return say(&mut std::io::stdout(), &text, ExitCode::SUCCESS),
        Err(error) => return say(&mut std::io::stderr(), &format!("Error: {error}\n"), ExitCode::from(64)),
    };
    // Queries are logged by the `log` directive, not by the library.
    let filter = tracing_subscriber::EnvFilter::new("info,hickory_server=warn");
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_env_filter(filter).init();
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "kube-dns failed");
            ExitCode::FAILURE
        }
    }
}

fn say(to: &mut impl Write, text: &str, code: ExitCode) -> ExitCode {
    // Nothing is left to do about a closed stream; the exit code tells.
    drop(to.write_all(text.as_bytes()));
    code
}

fn serve(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let tasks = Tasks::new();
        shutdown::signal(&tasks)?;
        run::build(config)?.run(&tasks).await?;
        let failure = tasks.failure().map(str::to_owned);
        tasks.shutdown(Duration::from_secs(2)).await;
        failure.map_or(Ok(()), |why| Err(anyhow::anyhow!(why)))
    })
}
