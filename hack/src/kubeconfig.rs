//! Kubeconfig files with embedded certificates.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::pki::Pair;

/// Writes a kubeconfig for `user` against `server`, trusting `ca`.
pub fn write(path: &Path, server: &str, ca: &Path, user: &str, pair: &Pair) -> Result<()> {
    let data = |p: &Path| -> Result<String> {
        Ok(STANDARD.encode(fs::read(p).with_context(|| format!("cannot read {}", p.display()))?))
    };
    // JSON is YAML; kubectl and our daemons read both.
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "keelson",
        "clusters": [{"name": "keelson", "cluster": {"server": server, "certificate-authority-data": data(ca)?}}],
        "contexts": [{"name": "keelson", "context": {"cluster": "keelson", "user": user}}],
        "users": [{"name": user, "user": {
            "client-certificate-data": data(&pair.cert)?, "client-key-data": data(&pair.key)?,
        }}],
    });
    let text = serde_json::to_string_pretty(&config)?;
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}
