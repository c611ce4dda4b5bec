//! Encryption at rest: what etcd holds, keys that change, and a key management service that comes and goes.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tests::{ControlPlane, client::Client, control_plane::Options, kms::Plugin, runner::Test};

pub(crate) const TESTS: &[Test<()>] = &[
    ("secrets are sealed in etcd, and a new key takes over", keys),
    ("a KMS plugin's keys seal secrets, and its health is the server's", plugin),
];

const SECRETS: &str = "/api/v1/namespaces/default/secrets";

fn provider(kind: &str, name: &str) -> Value {
    let secret = BASE64_STANDARD.encode([name.len() as u8; 32]);
    json!({kind: {"keys": [{"name": name, "secret": secret}]}})
}

fn write(path: &Path, providers: &[Value]) -> Result<()> {
    let config = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": providers}]});
    Ok(fs::write(path, config.to_string())?)
}

/// What etcd holds of a key.
pub(crate) fn stored(plane: &ControlPlane, key: &str) -> Result<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut etcd = etcd_client::Client::connect([plane.etcd_url()], None).await?;
        let found = etcd.get(key, None).await?;
        let found = found.kvs().first().with_context(|| format!("{key} is not in etcd"))?;
        Ok(found.value().to_vec())
    })
}

/// Puts something under a key, past the server.
pub(crate) fn store(plane: &ControlPlane, key: &str, value: &[u8]) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut etcd = etcd_client::Client::connect([plane.etcd_url()], None).await?;
        etcd.put(key, value, None).await?;
        Ok(())
    })
}

fn keys(_: &(), _: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("encryption.yaml");
    let old = provider("secretbox", "one");
    write(&path, &[old.clone(), json!({"identity": {}})])?;
    let flags = vec![format!("--encryption-provider-config={}", path.display())];
    let plane = ControlPlane::start(Options { flags, ..Options::default() })?;
    let admin = plane.admin()?;
    let key = "/registry/secrets/default/s";
    create(&admin, "s", "hidden")?;
    let value = stored(&plane, key)?;
    ensure!(value.starts_with(b"k8s:enc:secretbox:v1:one:"), "{}", String::from_utf8_lossy(&value));
    // Another key writes from now on, the first still reads.
    plane.kill_api()?;
    write(&path, &[provider("aescbc", "three"), old])?;
    plane.start_api()?;
    let secret = read(&plane, &admin, "s", "hidden")?;
    admin.put(&format!("{SECRETS}/s"), &secret)?.ok()?;
    let value = stored(&plane, key)?;
    ensure!(
        value.starts_with(b"k8s:enc:aescbc:v1:three:"),
        "a write that changes nothing did not bring the new key"
    );
    // Config maps are nobody's secret.
    admin.post("/api/v1/namespaces/default/configmaps", &json!({"metadata": {"name": "c"}}))?.ok()?;
    ensure!(
        stored(&plane, "/registry/configmaps/default/c")?.starts_with(b"{"),
        "config maps are sealed too"
    );
    Ok(())
}

/// Writes a secret of this name and value.
fn create(admin: &Client, name: &str, value: &str) -> Result<Value> {
    admin.post(SECRETS, &json!({"metadata": {"name": name}, "stringData": {"password": value}}))?.ok()
}

/// Whether a secret is read with this value, as soon as the server answers.
fn read(plane: &ControlPlane, admin: &Client, name: &str, value: &str) -> Result<Value> {
    let read = plane.eventually("the secret is read", 30, || {
        let answer = admin.get(&format!("{SECRETS}/{name}"));
        Ok(answer.ok().and_then(|answer| answer.ok().ok()))
    })?;
    ensure!(read["data"]["password"] == BASE64_STANDARD.encode(value).as_str(), "{read}");
    Ok(read)
}

fn plugin(_: &(), _: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (path, socket) = (dir.path().join("encryption.yaml"), dir.path().join("kms.sock"));
    let endpoint = format!("unix://{}", socket.display());
    let kms = json!({"kms": {"apiVersion": "v2", "name": "cloud", "endpoint": endpoint, "timeout": "30s"}});
    write(&path, &[kms, json!({"identity": {}})])?;
    let plugin = Plugin::start(&socket, "key-1")?;
    let flags = vec![format!("--encryption-provider-config={}", path.display())];
    let plane = ControlPlane::start(Options { flags, ..Options::default() })?;
    let admin = plane.admin()?;
    ensure!(admin.get("/readyz/kms-providers")?.code == 200, "the plugin is not well");
    create(&admin, "one", "hidden")?;
    let first = stored(&plane, "/registry/secrets/default/one")?;
    ensure!(first.starts_with(b"k8s:enc:kms:v2:cloud:"), "{}", String::from_utf8_lossy(&first));
    ensure!(
        contains(&first, b"key-1") && !contains(&first, b"password"),
        "it is not sealed by the plugin's key"
    );
    ensure!(plugin.behaviour().encrypted == 1, "one seed was encrypted");
    let metrics = admin.get("/metrics")?.text();
    for line in [
        "apiserver_envelope_encryption_key_id_hash_total{",
        "apiserver_storage_transformation_operations_total{resource=\"secrets\",status=\"OK\",\
         transformation_type=\"to_storage\",transformer_prefix=\"k8s:enc:kms:v2:cloud:\"}",
    ] {
        ensure!(metrics.lines().any(|shown| shown.starts_with(line)), "{line} is not shown");
    }
    // Another server process, another key: what there is is read, a write that changes nothing brings the new key.
    plane.kill_api()?;
    "key-2".clone_into(&mut plugin.behaviour().key);
    plane.start_api()?;
    let secret = read(&plane, &admin, "one", "hidden")?;
    ensure!(plugin.behaviour().decrypted == 1, "the old seed was decrypted once");
    admin.put(&format!("{SECRETS}/one"), &secret)?.ok()?;
    let second = stored(&plane, "/registry/secrets/default/one")?;
    ensure!(contains(&second, b"key-2"), "a write that changes nothing did not bring the new key");
    // The plugin being away is told, but what is known is read, and written while its key is the current one.
    drop(plugin);
    create(&admin, "two", "also hidden")?;
    read(&plane, &admin, "two", "also hidden")?;
    // It comes back, unwell: the server is then not ready.
    let plugin = Plugin::start(&socket, "key-2")?;
    "tired".clone_into(&mut plugin.behaviour().healthz);
    plane.kill_api()?;
    plane.launch_api()?;
    let told = plane.eventually("the plugin is reported", 30, || {
        let answer = admin.get("/readyz/kms-providers");
        Ok(answer.ok().filter(|answer| answer.code == 500).map(|answer| answer.text()))
    })?;
    ensure!(
        told.contains("kms-provider-0: kmsv2 Provider cloud is not healthy")
            && told.contains("got unexpected healthz status: tired"),
        "{told}"
    );
    ensure!(admin.get("/readyz")?.code == 500, "it is ready all the same");
    "ok".clone_into(&mut plugin.behaviour().healthz);
    plane.eventually("the server is ready", 30, || {
        Ok(admin.get("/readyz").ok().filter(|answer| answer.code == 200))
    })?;
    read(&plane, &admin, "two", "also hidden")?;
    Ok(())
}

fn contains(value: &[u8], part: &[u8]) -> bool {
    value.windows(part.len()).any(|window| window == part)
}
