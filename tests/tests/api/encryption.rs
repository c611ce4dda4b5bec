//! Encryption at rest: what etcd holds, and keys that change.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tests::{ControlPlane, control_plane::Options, runner::Test};

pub(crate) const TESTS: &[Test<()>] = &[("secrets are sealed in etcd, and a new key takes over", keys)];

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
fn stored(plane: &ControlPlane, key: &str) -> Result<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut etcd = etcd_client::Client::connect([plane.etcd_url()], None).await?;
        let found = etcd.get(key, None).await?;
        let found = found.kvs().first().with_context(|| format!("{key} is not in etcd"))?;
        Ok(found.value().to_vec())
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
    let (secrets, key) = ("/api/v1/namespaces/default/secrets", "/registry/secrets/default/s");
    admin.post(secrets, &json!({"metadata": {"name": "s"}, "stringData": {"password": "hidden"}}))?.ok()?;
    let value = stored(&plane, key)?;
    ensure!(value.starts_with(b"k8s:enc:secretbox:v1:one:"), "{}", String::from_utf8_lossy(&value));
    // Another key writes from now on, the first still reads.
    plane.kill_api()?;
    write(&path, &[provider("aescbc", "three"), old])?;
    plane.start_api()?;
    let read =
        plane.eventually("the secret is read", 10, || Ok(admin.get(&format!("{secrets}/s")).ok()))?.ok()?;
    ensure!(read["data"]["password"] == BASE64_STANDARD.encode("hidden").as_str(), "{read}");
    admin.put(&format!("{secrets}/s"), &read)?.ok()?;
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
