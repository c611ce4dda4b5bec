//! Kubeconfig files with embedded certificates.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::pki::Pair;

/// Writes a kubeconfig for `user` against `server`, trusting `ca`.
pub fn write(path: &Path, server: &str, ca: &Path, user: &str, pair: &Pair) -> Result<()> {
    let proof = json!({"client-certificate-data": data(&pair.cert)?, "client-key-data": data(&pair.key)?});
    save(path, server, ca, user, &proof)
}

/// Writes a kubeconfig for the holder of a token.
pub fn write_token(path: &Path, server: &str, ca: &Path, user: &str, token: &str) -> Result<()> {
    save(path, server, ca, user, &json!({"token": token}))
}

/// A kubeconfig that says where a cluster is and proves nobody.
pub fn cluster_only(server: &str, ca: &Path) -> Result<String> {
    let cluster = json!({"server": server, "certificate-authority-data": data(ca)?});
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "", "preferences": {},
        "clusters": [{"name": "", "cluster": cluster}], "contexts": [], "users": [],
    });
    Ok(serde_json::to_string_pretty(&config)?)
}

/// The server a kubeconfig written here leads to.
pub fn server(path: &Path) -> Result<String> {
    let config: serde_json::Value = serde_json::from_slice(&fs::read(path)?)?;
    let server = config["clusters"][0]["cluster"]["server"].as_str();
    server.map(str::to_owned).with_context(|| format!("{} names no server", path.display()))
}

fn data(path: &Path) -> Result<String> {
    Ok(STANDARD.encode(fs::read(path).with_context(|| format!("cannot read {}", path.display()))?))
}

fn save(path: &Path, server: &str, ca: &Path, user: &str, proof: &serde_json::Value) -> Result<()> {
    // JSON is YAML; kubectl and our daemons read both.
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "keelson",
        "clusters": [{"name": "keelson", "cluster": {"server": server, "certificate-authority-data": data(ca)?}}],
        "contexts": [{"name": "keelson", "context": {"cluster": "keelson", "user": user}}],
        "users": [{"name": user, "user": proof}],
    });
    let text = serde_json::to_string_pretty(&config)?;
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}
