//! The kubelet as a process, standalone, with a real containerd of its own: static pods are run, adopted after a restart of
//! the kubelet, and taken away with their manifests.
//!
//! Needs root, containerd, runc and a static busybox; without them it says so and passes. Pods use the host's network, so
//! no network plugin is needed. Everything lives in one temporary folder and below one cgroup of its own.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails, and speaks, where it stands")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A child that does not outlive the test.
struct Process(Child);

impl Process {
    fn start(command: &mut Command, log: &Path) -> Self {
        let log = fs::File::options().create(true).append(true).open(log).unwrap();
        let errors = log.try_clone().unwrap();
        Self(command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn().unwrap())
    }

    fn stop(mut self) {
        self.terminate();
    }

    fn terminate(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        if self.0.try_wait().unwrap().is_none() {
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
            self.0.wait().unwrap();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.terminate();
        } else if let Err(error) = self.0.kill() {
            eprintln!("cannot end a child: {error}");
        }
    }
}

/// One machine of the test.
struct Machine {
    dir: PathBuf,
    cgroup: String,
}

impl Machine {
    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    fn wait(&self, what: &str, done: impl Fn() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(
                begun.elapsed() < PATIENCE,
                "{what}: not within {PATIENCE:?}\n{}",
                self.read("kubelet.log")
            );
            // Looked at rather than waited for: the other side is a process.
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }

    fn ctr(&self, arguments: &[&str]) -> std::process::Output {
        let socket = self.file("containerd.sock");
        Command::new("ctr").arg("-a").arg(socket).args(["-n", "k8s.io"]).args(arguments).output().unwrap()
    }

    fn containerd(&self) -> Process {
        let dir = self.dir.display();
        let config = format!(
            "version = 2\nroot = \"{dir}/root\"\nstate = \"{dir}/state\"\n[grpc]\n  address = \"{dir}/containerd.sock\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"test.local/pause:1\"\n  \
             restrict_oom_score_adj = true\n  [plugins.\"io.containerd.grpc.v1.cri\".containerd]\n    \
             snapshotter = \"native\"\n"
        );
        fs::write(self.file("containerd.toml"), config).unwrap();
        let mut command = Command::new("containerd");
        let process =
            Process::start(command.arg("-c").arg(self.file("containerd.toml")), &self.file("containerd.log"));
        self.wait("containerd answers", || self.ctr(&["version"]).status.success());
        process
    }

    fn kubelet(&self) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kubelet"));
        command
            .arg(format!("--config={}", self.file("kubelet.yaml").display()))
            .arg(format!("--container-runtime-endpoint=unix://{}", self.file("containerd.sock").display()))
            .arg(format!("--root-dir={}", self.file("kubelet").display()))
            .arg(format!("--pod-manifest-path={}", self.file("manifests").display()))
            .arg(format!("--cgroup-root={}", self.cgroup))
            .args([
                "--hostname-override=test",
                "--fail-cgroupv1=false",
                "--fail-swap-on=false",
                "--node-ip=127.0.0.1",
            ])
            .args(["--enable-server=false", "--healthz-port=0", "--eviction-hard=memory.available<1Mi"])
            // The image cannot be pulled again: a full disk of the machine must not cost the test its image.
            .args(["--image-gc-high-threshold=100", "--image-gc-low-threshold=99"]);
        Process::start(&mut command, &self.file("kubelet.log"))
    }

    /// Puts a manifest in place by one rename, as a half-written one would be an error in the log.
    fn manifest(&self, name: &str, text: &str) {
        let draft = self.file("draft.yaml");
        fs::write(&draft, text.replace("DIR", &self.dir.join("out").to_string_lossy())).unwrap();
        fs::rename(draft, self.file("manifests").join(name)).unwrap();
    }

    /// Imports an image with a static busybox under this name and entry point.
    fn image(&self, name: &str, entry: &[&str]) {
        let build = self.file("build");
        let root = build.join("root");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::create_dir_all(root.join("tmp")).unwrap();
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for applet in ["sh", "sleep", "echo", "cat", "id", "tail"] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        tar(&root, &build.join("layer.tar"), &["."]);
        let layer = digest(&build.join("layer.tar"));
        let config = serde_json::json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": { "Entrypoint": entry, "Env": ["PATH=/bin"] },
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
        });
        fs::write(build.join("config.json"), config.to_string()).unwrap();
        let manifest =
            serde_json::json!([{ "Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"] }]);
        fs::write(build.join("manifest.json"), manifest.to_string()).unwrap();
        let archive = self.file("image.tar");
        tar(&build, &archive, &["manifest.json", "config.json", "layer.tar"]);
        let imported = self.ctr(&["images", "import", &archive.to_string_lossy()]);
        assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
        fs::remove_dir_all(build).unwrap();
    }
}

fn tar(folder: &Path, archive: &Path, names: &[&str]) {
    let done =
        Command::new("tar").arg("-C").arg(folder).arg("-cf").arg(archive).args(names).status().unwrap();
    assert!(done.success());
}

fn digest(path: &Path) -> String {
    Sha256::digest(fs::read(path).unwrap()).iter().map(|b| format!("{b:02x}")).collect()
}

fn missing() -> Option<&'static str> {
    let has = |name: &str| {
        let found = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        found.is_ok()
    };
    if !nix::unistd::geteuid().is_root() {
        return Some("root");
    }
    ["containerd", "ctr", "runc", "tar"]
        .into_iter()
        .find(|name| !has(name))
        .or_else(|| (!Path::new("/bin/busybox").exists()).then_some("busybox-static"))
}

const STEADY: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: steady, labels: {app: steady}}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 10
  initContainers:
  - name: first
    image: test.local/busybox:1
    command: [sh, -c, "echo init > /shared/word"]
    volumeMounts: [{name: shared, mountPath: /shared}]
  containers:
  - name: main
    image: test.local/busybox:1
    command: [sh, -c, "echo start-$(cat /shared/word)-$(WHO)-$(cat /info/labels) >> /out/steady; exec sleep 1000"]
    env: [{name: WHO, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    resources: {limits: {memory: 32Mi}}
    lifecycle: {preStop: {exec: {command: [sh, -c, "echo bye >> /out/steady"]}}}
    volumeMounts:
    - {name: shared, mountPath: /shared}
    - {name: out, mountPath: /out}
    - {name: info, mountPath: /info}
  volumes:
  - {name: shared, emptyDir: {}}
  - {name: out, hostPath: {path: DIR, type: DirectoryOrCreate}}
  - {name: info, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
"#;

const LATER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: later}
spec:
  hostNetwork: true
  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: test.local/busybox:1
    command: [sh, -c, "echo try >> /out/later; test $(cat /out/later | wc -l) -ge 2"]
    volumeMounts: [{name: out, mountPath: /out}]
  volumes: [{name: out, hostPath: {path: DIR}}]
"#;

#[test]
fn static_pods_run_are_adopted_and_end() {
    if let Some(what) = missing() {
        eprintln!("skipped: this test needs {what}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let machine =
        Machine { dir: folder.path().to_owned(), cgroup: format!("/kubelet-test-{}", std::process::id()) };
    fs::create_dir(machine.file("manifests")).unwrap();
    let config = format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\npodLogsDir: {}\n",
        machine.file("logs/pods").display()
    );
    fs::write(machine.file("kubelet.yaml"), config).unwrap();
    let containerd = machine.containerd();
    machine.image("test.local/pause:1", &["sleep", "100000"]);
    machine.image("test.local/busybox:1", &["sh"]);

    let kubelet = machine.kubelet();
    machine.manifest("steady.yaml", STEADY);
    machine.wait("the pod has started", || machine.read("out/steady").contains("start"));
    assert_eq!(machine.read("out/steady"), "start-init-steady-test-app=\"steady\"\n");

    kubelet.stop();
    let kubelet = machine.kubelet();
    machine.manifest("later.yaml", LATER);
    machine.wait("a failed container is restarted", || machine.read("out/later").lines().count() == 2);
    assert_eq!(
        machine.read("out/steady").lines().count(),
        1,
        "the running container was adopted, not restarted"
    );

    fs::remove_file(machine.file("manifests/steady.yaml")).unwrap();
    fs::remove_file(machine.file("manifests/later.yaml")).unwrap();
    machine.wait("both pods are taken away", || {
        let pods = fs::read_dir(machine.file("kubelet/pods")).map(Iterator::count).unwrap_or(0);
        let tasks = machine.ctr(&["containers", "ls", "-q"]).stdout;
        pods == 0 && tasks.is_empty()
    });
    assert!(machine.read("out/steady").ends_with("bye\n"), "the preStop hook ran");

    kubelet.stop();
    containerd.stop();
    remove_cgroups(&machine.cgroup);
}

/// The classes' cgroups outlive the kubelet on purpose; the test takes its own away.
fn remove_cgroups(root: &str) {
    let mount = Path::new("/sys/fs/cgroup");
    let mut roots = vec![mount.to_owned()];
    roots.extend(fs::read_dir(mount).unwrap().filter_map(Result::ok).map(|e| e.path()));
    for path in roots {
        remove_tree(&path.join(root.trim_start_matches('/')));
    }
}

fn remove_tree(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    entries.filter_map(Result::ok).map(|e| e.path()).filter(|p| p.is_dir()).for_each(|p| remove_tree(&p));
    fs::remove_dir(folder).unwrap();
}
