//! [`ControlPlane`]: a real etcd and the kube-apiserver binary on free loopback ports; no node, no controller.
//!
//! It needs neither root nor containers, starts in about a second, and every test that breaks it has one of its own.

use std::{
    fs::{self, File},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::{Pid, sethostname},
};
use serde_json::json;

use crate::{
    binary,
    client::Client,
    pki::{Authority, Identity, NOW, TokenKey},
    tail,
};

/// Who issues tokens.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// etcd and an API server, ended when dropped.
#[derive(Debug)]
pub struct ControlPlane {
    dir: tempfile::TempDir,
    members: Vec<Member>,
    port: u16,
    quota: u64,
    flags: Mutex<Vec<String>>,
    /// The API server's machine, where that is another one.
    host: Option<String>,
    /// Who signs certificates of servers and clients.
    pub ca: Arc<Authority>,
    /// What signs tokens.
    pub tokens: Arc<TokenKey>,
    api: Mutex<Option<Child>>,
}

/// A member of the etcd cluster.
#[derive(Debug)]
struct Member {
    client: u16,
    peer: u16,
    child: Mutex<Option<Child>>,
}

/// How a control plane is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes etcd takes before it calls its disk full.
    pub quota: u64,
    /// More flags for the API server.
    pub flags: Vec<String>,
    /// Members of the etcd cluster.
    pub members: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { quota: 1 << 30, flags: Vec::new(), members: 1 }
    }
}

impl ControlPlane {
    /// Starts both and waits until the API server is ready.
    ///
    /// # Errors
    /// When one does not come up, with its last lines.
    pub fn start(options: Options) -> Result<Self> {
        let plane = Self {
            dir: tempfile::Builder::new().prefix("keelson-api").tempdir()?,
            members: (0..options.members)
                .map(|_| Ok(Member::new(free_port()?, free_port()?)))
                .collect::<Result<_>>()?,
            port: free_port()?,
            quota: options.quota,
            flags: Mutex::new(options.flags),
            host: None,
            ca: Arc::new(Authority::new("test-ca")?),
            tokens: Arc::new(TokenKey::new()?),
            api: Mutex::default(),
        };
        plane.write_files()?;
        plane.start_etcd()?;
        plane.start_api()?;
        Ok(plane)
    }

    /// Starts one more API server on the same etcd, which knows the same certificates and keys, and has a host name of
    /// its own: servers are told apart by those.
    ///
    /// # Errors
    /// When it does not come up, with its last lines.
    pub fn beside(&self, host: &str, flags: Vec<String>) -> Result<Self> {
        let plane = Self {
            dir: tempfile::Builder::new().prefix("keelson-api").tempdir()?,
            members: self.members.iter().map(|member| Member::new(member.client, member.peer)).collect(),
            port: free_port()?,
            quota: self.quota,
            flags: Mutex::new(flags),
            host: Some(host.to_owned()),
            ca: self.ca.clone(),
            tokens: self.tokens.clone(),
            api: Mutex::default(),
        };
        plane.write_files()?;
        plane.start_api()?;
        Ok(plane)
    }

    /// A client that may do everything.
    ///
    /// # Errors
    /// When no certificate can be made.
    pub fn admin(&self) -> Result<Client> {
        self.user("admin", "system:masters")
    }

    /// A client with a certificate of this user, in a group unless that is empty.
    ///
    /// # Errors
    /// When no certificate can be made.
    pub fn user(&self, name: &str, group: &str) -> Result<Client> {
        self.client(Some(&self.ca.client(name, group, NOW)?))
    }

    /// A client without an identity, or with any.
    ///
    /// # Errors
    /// When the identity cannot be read.
    pub fn client(&self, identity: Option<&Identity>) -> Result<Client> {
        Client::new(&format!("https://{}", self.address()), &self.ca.cert, identity)
    }

    /// Where the first member of etcd listens.
    pub fn etcd_url(&self) -> String {
        self.members[0].client_url()
    }

    /// Starts etcd on the data it had, if any.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_etcd(&self) -> Result<()> {
        (0..self.members.len()).try_for_each(|at| self.start_member(at))
    }

    /// Starts a member of etcd on the data it had, if any.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_member(&self, at: usize) -> Result<()> {
        let name = |at: usize| if at == 0 { "test".to_owned() } else { format!("test{at}") };
        let (client, peer) = (self.members[at].client_url(), self.members[at].peer_url());
        let all = self.members.iter().enumerate();
        let cluster: Vec<String> =
            all.map(|(at, member)| format!("{}={}", name(at), member.peer_url())).collect();
        let etcd = which("etcd").context("etcd is not installed")?;
        let mut command = Command::new(etcd);
        command
            .arg(format!("--name={}", name(at)))
            .arg(format!("--data-dir={}", self.at(&name(at).replace("test", "etcd"))))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster={}", cluster.join(",")))
            .arg(format!("--quota-backend-bytes={}", self.quota))
            .args(["--logger=zap", "--log-level=warn", "--unsafe-no-fsync"]);
        *lock(&self.members[at].child) = Some(self.spawn(command, "etcd.log")?);
        Ok(())
    }

    /// Starts the API server and waits until it is ready.
    ///
    /// # Errors
    /// When it is not within a minute.
    pub fn start_api(&self) -> Result<()> {
        self.launch_api()?;
        let admin = self.admin()?;
        self.eventually("the API server is ready", 60, || {
            ensure!(self.is_running()?, "it ended");
            let answer = admin.get("/readyz")?;
            Ok((answer.code == 200).then_some(()))
        })
        .with_context(|| self.logs())
    }

    /// Has the API server start with these flags from now on.
    pub fn set_flags(&self, flags: &[&str]) {
        *lock(&self.flags) = flags.iter().map(|flag| (*flag).to_owned()).collect();
    }

    /// Starts the API server, which need not become ready.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch_api(&self) -> Result<()> {
        let servers: Vec<String> = self.members.iter().map(Member::client_url).collect();
        let mut command = Command::new(binary("kube-apiserver")?);
        command
            .arg(format!("--etcd-servers={}", servers.join(",")))
            .arg("--allow-privileged=true")
            .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
            .arg(format!("--secure-port={}", self.port))
            .arg(format!("--tls-cert-file={}", self.at("server.crt")))
            .arg(format!("--tls-private-key-file={}", self.at("server.key")))
            .arg(format!("--client-ca-file={}", self.at("ca.crt")))
            .arg(format!("--service-account-issuer={ISSUER}"))
            .arg(format!("--service-account-key-file={}", self.at("sa.pub")))
            .arg(format!("--service-account-signing-key-file={}", self.at("sa.key")))
            .args(["--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=Node,RBAC"])
            .arg("--enable-admission-plugins=NodeRestriction")
            .args(&*lock(&self.flags));
        let spawn = || self.spawn(command, "kube-apiserver.log");
        let child = match &self.host {
            None => spawn()?,
            Some(host) => thread::scope(|scope| {
                let there = scope.spawn(|| {
                    // Of this thread and what it starts alone.
                    unshare(CloneFlags::CLONE_NEWUTS)?;
                    sethostname(host)?;
                    spawn()
                });
                there.join().map_err(|_| anyhow!("the thread that starts it has ended"))?
            })?,
        };
        *lock(&self.api) = Some(child);
        Ok(())
    }

    /// Whether servers can be given host names of their own, which takes the right to do so.
    pub fn has_hosts() -> bool {
        let tried = thread::spawn(|| unshare(CloneFlags::CLONE_NEWUTS).is_ok());
        tried.join().unwrap_or(false)
    }

    /// Ends etcd as a crash would.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill_etcd(&self) -> Result<()> {
        (0..self.members.len()).try_for_each(|at| self.kill_member(at))
    }

    /// Ends a member of etcd as a crash would.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill_member(&self, at: usize) -> Result<()> {
        end(&mut lock(&self.members[at].child), Signal::SIGKILL)
    }

    /// Ends the API server as a crash would.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill_api(&self) -> Result<()> {
        end(&mut lock(&self.api), Signal::SIGKILL)
    }

    /// Ends the API server as an operator would and waits for it.
    ///
    /// # Errors
    /// When it does not run.
    pub fn terminate_api(&self) -> Result<ExitStatus> {
        let mut child = lock(&self.api).take().context("the API server does not run")?;
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        Ok(child.wait()?)
    }

    /// Whether the API server runs.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn is_running(&self) -> Result<bool> {
        match lock(&self.api).as_mut() {
            Some(child) => Ok(child.try_wait()?.is_none()),
            None => Ok(false),
        }
    }

    /// Host and port of the API server.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Process id of the API server.
    pub fn api_pid(&self) -> Option<u32> {
        lock(&self.api).as_ref().map(Child::id)
    }

    /// Polls until `probe` says something; `what` names what is waited for.
    ///
    /// # Errors
    /// After `seconds`, with the last failure of the probe.
    pub fn eventually<T>(
        &self,
        what: &str,
        seconds: u64,
        mut probe: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        poll(what, seconds, Duration::from_millis(20), &mut probe)
    }

    /// A namespace with the service account that a controller would have made.
    ///
    /// # Errors
    /// When they are refused.
    pub fn namespace(&self, name: &str) -> Result<()> {
        let admin = self.admin()?;
        admin.post("/api/v1/namespaces", &json!({"metadata": {"name": name}}))?.ok()?;
        let account = json!({"metadata": {"name": "default"}});
        admin.post(&format!("/api/v1/namespaces/{name}/serviceaccounts"), &account)?.ok()?;
        Ok(())
    }

    /// The last lines of both logs.
    pub fn logs(&self) -> String {
        let of = |name: &str| tail(&fs::read_to_string(self.at(name)).unwrap_or_default(), 12);
        format!("--- etcd\n{}\n--- kube-apiserver\n{}", of("etcd.log"), of("kube-apiserver.log"))
    }

    /// Everything the API server has logged.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn api_log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.at("kube-apiserver.log"))?)
    }

    fn at(&self, file: &str) -> String {
        self.dir.path().join(file).to_string_lossy().into_owned()
    }

    fn write_files(&self) -> Result<()> {
        let server = self.ca.server()?;
        for (file, text) in [
            ("ca.crt", &self.ca.cert),
            ("server.crt", &server.cert),
            ("server.key", &server.key),
            ("sa.key", &self.tokens.private()),
            ("sa.pub", &self.tokens.public()),
        ] {
            fs::write(self.at(file), text)?;
            fs::set_permissions(self.at(file), fs::Permissions::from_mode(0o600))?;
        }
        Ok(())
    }

    fn spawn(&self, mut command: Command, log: &str) -> Result<Child> {
        let log = File::options().create(true).append(true).open(self.at(log))?;
        let program = command.get_program().to_owned();
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        command.spawn().with_context(|| format!("cannot start {}", Path::new(&program).display()))
    }
}

// === impl Member ===

impl Member {
    fn new(client: u16, peer: u16) -> Self {
        Self { client, peer, child: Mutex::default() }
    }

    fn client_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client)
    }

    fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        for child in [&self.api].into_iter().chain(self.members.iter().map(|member| &member.child)) {
            // A process that cannot be ended here has ended already.
            drop(end(&mut lock(child), Signal::SIGKILL));
        }
    }
}

/// Polls `probe` until it says something.
///
/// # Errors
/// After `seconds`, with the last failure of the probe.
#[expect(clippy::disallowed_methods, reason = "no runtime is there to be blocked")]
pub fn poll<T>(
    what: &str,
    seconds: u64,
    pause: Duration,
    probe: &mut dyn FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        let last = match probe() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => "not yet".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= end {
            bail!("{what}: not within {seconds} s: {last}");
        }
        thread::sleep(pause);
    }
}

fn end(child: &mut Option<Child>, signal: Signal) -> Result<()> {
    if let Some(mut child) = child.take() {
        match kill(Pid::from_raw(i32::try_from(child.id())?), signal) {
            // One that is gone already is only waited for.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
        child.wait()?;
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A port nobody listens on, below those the kernel gives to connections, which would be taken by the time of its use.
///
/// # Errors
/// When none is found.
pub fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..10_000 {
        let own = u16::try_from(std::process::id() % 97)? * 100;
        let port = 20_000 + (own + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free")
}

fn which(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/bin".into()]);
    folders.map(|f| f.join(program)).find(|p| p.is_file())
}
