//! Static bearer tokens from `--token-auth-file`: lines of `token,user,uid[,"group1,group2"]`.
//!
//! Contract: Kubernetes "Static token file"; CSV quoting as in RFC 4180.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;

use crate::auth::{Authenticator, Credentials, User};

/// Why a token file was refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// The file is not text.
    #[error("token auth file is not UTF-8")]
    NotText,
    /// A line has fewer than three columns, or an unfinished quote.
    #[error("line {0} must have at least 3 columns (token, user name, user uid)")]
    Columns(usize),
}

/// The tokens of one file.
#[derive(Debug)]
pub struct TokenFile(HashMap<String, Arc<User>>);

impl TokenFile {
    /// Parses the file; the last of equal tokens wins, empty tokens are skipped.
    pub fn parse(bytes: &[u8]) -> Result<Self, TokenFileError> {
        let text = std::str::from_utf8(bytes).map_err(|_| TokenFileError::NotText)?;
        let mut tokens = HashMap::new();
        for (i, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let fields = fields(line).ok_or(TokenFileError::Columns(i + 1))?;
            let [token, name, uid, rest @ ..] = fields.as_slice() else {
                return Err(TokenFileError::Columns(i + 1));
            };
            let groups = rest.first().map(String::as_str).unwrap_or_default();
            let groups = groups.split(',').filter(|g| !g.is_empty()).map(str::to_owned).collect();
            if !token.is_empty() {
                let user = User { name: name.clone(), uid: uid.clone(), groups, ..User::default() };
                tokens.insert(token.clone(), Arc::new(user));
            }
        }
        Ok(Self(tokens))
    }
}

#[async_trait]
impl Authenticator for TokenFile {
    async fn authenticate(&self, credentials: &Credentials) -> Result<Option<Arc<User>>, String> {
        Ok(credentials.bearer.as_ref().and_then(|t| self.0.get(t)).cloned())
    }
}

/// The comma-separated fields of a line; `None` when a quote stays open.
fn fields(line: &str) -> Option<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let field = fields.last_mut()?;
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            c if field.is_empty() && c == ' ' && !quoted => {}
            c => field.push(c),
        }
    }
    (!quoted).then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tokens_name_users_and_groups() {
        let file = TokenFile::parse(b"t1,ann,u1\nt2, bob,u2,\"a,b\"\n\n").unwrap();
        let ask = async |token: &str| {
            let credentials = Credentials { bearer: Some(token.to_owned()), ..Credentials::default() };
            file.authenticate(&credentials).await.unwrap()
        };
        assert_eq!(ask("t1").await.unwrap().name, "ann");
        assert_eq!(ask("t2").await.unwrap().groups, ["a", "b"]);
        assert_eq!(ask("t3").await, None);
        assert_eq!(ask("").await, None);
    }

    #[test]
    fn short_and_unfinished_lines_are_refused() {
        for bad in ["a,b", "a,b,c,\"d", "x"] {
            assert!(TokenFile::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
