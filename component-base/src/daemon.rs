//! The same dozen lines for every daemon: provider, flags, logging, configuration, runtime, signals, drain, exit code.
//!
//! ```text
//! fn main() -> ExitCode { component_base::daemon::main::<scheduler::Scheduler>() }
//! ```
//! Exit codes: 0 after a drain, 1 when running failed, 64 for unusable flags or configuration (sysexits' EX_USAGE).

use std::{error::Error, future::Future, process::ExitCode, time::Duration};

use crate::{
    auth::AuthError,
    client::{ClientError, ClientOptions},
    clock,
    flags::{FlagSet, Parsed, Values, group},
    leader::{ElectionError, LeaderElection},
    logging::{self, LoggingError, streams},
    memory,
    serving::ServingError,
    shutdown,
    task::{Tasks, Ticks},
    workqueue::chain,
    zpages,
};

const EX_USAGE: u8 = 64;

/// What a daemon is made of.
pub trait Daemon: 'static {
    /// Everything the daemon needs to know, validated.
    type Config: Send + 'static;
    /// Why the configuration is not usable.
    type ConfigError: Error;
    /// Why it could not start or go on.
    type RunError: Error;

    /// The daemon's flags; [`group::logging`] must be among them.
    fn flags() -> FlagSet;

    /// Installs the logger, before anything else is done with the flags. Daemons whose configuration file tells of logs
    /// have a look at it here.
    ///
    /// # Errors
    /// When a flag of logs is not usable.
    fn log(values: &Values) -> Result<(), LoggingError> {
        logging::init(group::logging_settings(values)?);
        Ok(())
    }

    /// Flags (and the files they name) to configuration. Touches nothing else.
    ///
    /// # Errors
    /// When the flags or files are not usable.
    fn configure(values: &Values) -> Result<Self::Config, Self::ConfigError>;

    /// Builds and starts the daemon's parts in the group, and returns; or runs until the group drains. Either way the daemon
    /// lives until the drain begins.
    ///
    /// # Errors
    /// When a part cannot start. The daemon then drains and exits with 1.
    fn run(config: Self::Config, tasks: Tasks) -> impl Future<Output = Result<(), Self::RunError>> + Send;

    /// Worker threads of the runtime.
    fn workers() -> usize {
        2
    }

    /// How long tasks may take to drain before they are aborted.
    fn grace() -> Duration {
        Duration::from_secs(20)
    }
}

/// Why a daemon's way to the API server or its own endpoint cannot be set up. Daemons whose start can fail in other
/// ways have an error of their own.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No way to the API server.
    #[error("no API client")]
    Client(#[from] ClientError),
    /// The HTTPS endpoint cannot be served.
    #[error("cannot serve")]
    Serving(#[from] ServingError),
    /// Callers of the endpoint cannot be checked.
    #[error("cannot set up delegated authentication")]
    Auth(#[from] AuthError),
    /// The election cannot be held.
    #[error("leader election")]
    Election(#[from] ElectionError),
}

/// Starts what a daemon does while it leads: once the election is won, or at once where there is none.
///
/// # Errors
/// When the election cannot be held.
pub async fn lead<F, Fut>(
    election: Option<LeaderElection>,
    options: &ClientOptions,
    tasks: &Tasks,
    lead: F,
) -> Result<(), StartError>
where
    F: FnOnce(Tasks) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    match election {
        Some(election) => election.start(options, clock::real(), tasks, lead).await?,
        None => drop(tasks.spawn("leading", lead(tasks.clone()))),
    }
    Ok(())
}

/// The whole of a daemon's `main`.
pub fn main<D: Daemon>() -> ExitCode {
    let code = execute::<D>(std::env::args().skip(1));
    streams::flush();
    code
}

/// Keeps huge pages out of this process: the allocator asks for them, and a daemon whose live heap is a few
/// megabytes would hold most of each 2 MiB page for nothing. [`main`] calls it before anything else.
pub fn use_small_pages() {
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!(%error, "huge pages stay as the system has them");
    }
}

fn execute<D: Daemon>(arguments: impl IntoIterator<Item = String>) -> ExitCode {
    use_small_pages();
    let values = match D::flags().parse(arguments) {
        Ok(Parsed::Run(values)) => values,
        Ok(Parsed::Print(text)) => return print(&text),
        Err(error) => return usage(&error),
    };
    zpages::describe(D::flags().program(), values.effective());
    if let Err(error) = D::log(&values) {
        return usage(&error);
    }
    crate::tls::install_provider();
    let config = match D::configure(&values) {
        Ok(config) => config,
        Err(error) => return usage(&error),
    };
    crate::metrics::register_build_info();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(D::workers())
        .max_blocking_threads(16)
        .on_thread_park(memory::before_sleep)
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(live::<D>(config)),
        Err(error) => failed(&error),
    }
}

async fn live<D: Daemon>(config: D::Config) -> ExitCode {
    let tasks = Tasks::new();
    if let Err(error) = shutdown::signal(&tasks) {
        return failed(&error);
    }
    memory::let_go_of_code(&tasks);
    if let Some(period) = streams::flush_period() {
        tasks.spawn("log flush", flush_log(tasks.ticks(period)));
    }
    let drain = tasks.drain();
    let outcome = D::run(config, tasks.clone()).await;
    if outcome.is_ok() {
        drain.cancelled().await;
    }
    // What failed has nothing to end in order, and a leader that lost its lease must do no more.
    let failed_while_running = tasks.failure().is_some();
    let grace = if failed_while_running { Duration::ZERO } else { D::grace() };
    let aborted = tasks.shutdown(grace).await;
    if aborted > 0 && !failed_while_running {
        tracing::warn!(tasks = aborted, "tasks did not drain in time and were aborted");
    }
    if let Err(error) = outcome {
        return failed(&error);
    }
    match tasks.failure() {
        Some(reason) => {
            tracing::error!(reason, "daemon failed");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

async fn flush_log(mut ticks: Ticks) {
    while ticks.next().await {
        streams::flush();
    }
}

fn failed(error: &(dyn Error + 'static)) -> ExitCode {
    tracing::error!(error = chain(error), "daemon failed");
    ExitCode::FAILURE
}

#[allow(clippy::print_stdout, reason = "this is what --help and --version are for")]
fn print(text: &str) -> ExitCode {
    print!("{text}");
    ExitCode::SUCCESS
}

#[allow(clippy::print_stderr, reason = "the logger may be what could not be configured")]
fn usage(error: &(dyn Error + 'static)) -> ExitCode {
    eprintln!("Error: {}", chain(error));
    ExitCode::from(EX_USAGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{Flag, Kind};

    #[derive(Debug, thiserror::Error)]
    #[error("bad outcome asked for")]
    struct Bad;

    struct Sample;

    impl Daemon for Sample {
        type Config = String;
        type ConfigError = Bad;
        type RunError = Bad;

        fn flags() -> FlagSet {
            FlagSet::new("sample", "A sample.", group::logging()).with([Flag::new(
                "outcome",
                Kind::String,
                "drain",
                "What happens.",
            )])
        }

        fn configure(values: &Values) -> Result<String, Bad> {
            let outcome = values.string("outcome").to_owned();
            if outcome == "misconfigured" { Err(Bad) } else { Ok(outcome) }
        }

        // Longer than anybody waits for a test: what fails ends without it.
        fn grace() -> Duration {
            Duration::from_secs(3600)
        }

        async fn run(outcome: String, tasks: Tasks) -> Result<(), Bad> {
            match outcome.as_str() {
                "fail" => return Err(Bad),
                "lose" => {
                    tasks.spawn("stubborn", std::future::pending());
                    tasks.fail("leader election lost");
                }
                _ => tasks.cancel(),
            }
            Ok(())
        }
    }

    #[test]
    fn exit_codes() {
        for (arguments, code) in [
            (vec!["--outcome=drain"], ExitCode::SUCCESS),
            (vec!["--outcome=fail"], ExitCode::FAILURE),
            (vec!["--outcome=lose"], ExitCode::FAILURE),
            (vec!["--outcome=misconfigured"], ExitCode::from(64)),
            (vec!["--unknown"], ExitCode::from(64)),
            (vec!["--logging-format=xml"], ExitCode::from(64)),
            (vec!["--version"], ExitCode::SUCCESS),
        ] {
            let result = execute::<Sample>(arguments.iter().map(|argument| (*argument).to_owned()));
            assert_eq!(format!("{result:?}"), format!("{code:?}"), "{arguments:?}");
        }
    }
}
