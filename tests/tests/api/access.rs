//! Who one is and what one may.

use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Method;
use serde_json::{Value, json};
use tests::{
    Answer, Client, ControlPlane,
    client::MERGE_PATCH,
    control_plane::ISSUER,
    pki::{self, Authority, EXPIRED, FUTURE, NOW, TokenKey},
    runner::Test,
};

use crate::config_maps;

pub(crate) const TESTS: &[Test<ControlPlane>] = &[
    ("nobody sees more than health and version", anonymous),
    ("certificates that do not hold are nobody's", certificates),
    ("issued tokens hold until their account or pod is gone", tokens),
    ("forged tokens are nobody's", forged_tokens),
    ("token reviews know good from bad", token_reviews),
    ("roles allow what they say and no more", roles),
    ("nobody grants what they do not have", escalation),
    ("who creates by changing what is not there must be allowed to create", creation_by_change),
    ("access reviews tell what is allowed", access_reviews),
    ("impersonation needs its own permission", impersonation),
    ("who acts as others may be held to some of what they may", constrained),
    ("nodes reach what is theirs alone", nodes),
    ("a node may not pretend", node_restriction),
    ("a node asks for tokens for whom its pods do", node_audiences),
];

fn anonymous(plane: &ControlPlane, ns: &str) -> Result<()> {
    let nobody = plane.client(None)?;
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        ensure!(nobody.get(path)?.code == 200, "{path} is closed");
    }
    for path in ["/api", "/apis", "/openapi/v2", "/openapi/v3", "/metrics", "/nonsense", "/api/v1/namespaces"]
    {
        let status = nobody.get(path)?.refused(403, "Forbidden").map_err(|e| e.context(path))?;
        ensure!(
            status["message"].as_str().is_some_and(|m| m.contains("User \"system:anonymous\" cannot")),
            "{status}"
        );
    }
    let made = nobody.post(&config_maps(ns, ""), &json!({"metadata": {"name": "a"}}))?;
    made.refused_with(
        403,
        "Forbidden",
        "cannot create resource \"configmaps\" in API group \"\" in the namespace",
    )?;
    Ok(())
}

fn whoami(client: &Client) -> Result<Value> {
    let mut review = client.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({}))?.ok()?;
    Ok(review["status"]["userInfo"].take())
}

fn certificates(plane: &ControlPlane, _: &str) -> Result<()> {
    let user = whoami(&plane.user("jane", "dev")?)?;
    ensure!(user["username"] == "jane" && user["groups"] == json!(["dev", "system:authenticated"]), "{user}");
    let stranger = Authority::new("stranger")?;
    let cases = [
        ("expired", plane.ca.client("admin", "system:masters", EXPIRED)?),
        ("of tomorrow", plane.ca.client("admin", "system:masters", FUTURE)?),
        ("of a stranger", stranger.client("admin", "system:masters", NOW)?),
    ];
    for (which, identity) in cases {
        // Refused in words or already with the handshake.
        if let Ok(answer) = plane.client(Some(&identity))?.get("/api/v1/namespaces") {
            answer.refused(401, "Unauthorized").map_err(|e| e.context(which))?;
        }
    }
    Ok(())
}

fn token(admin: &Client, ns: &str, account: &str, spec: &Value) -> Result<Answer> {
    let path = format!("/api/v1/namespaces/{ns}/serviceaccounts/{account}/token");
    admin
        .post(&path, &json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}))
}

fn text(answer: &Answer) -> Result<String> {
    Ok(answer.ok()?["status"]["token"].as_str().context("it has a token")?.to_owned())
}

fn claims(token: &str) -> Result<Value> {
    let part = token.split('.').nth(1).context("a token has three parts")?;
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part)?)?)
}

fn tokens(plane: &ControlPlane, ns: &str) -> Result<()> {
    let (admin, nobody) = (plane.admin()?, plane.client(None)?);
    let plain = text(&token(&admin, ns, "default", &json!({}))?)?;
    let user = whoami(&nobody.with_token(&plain)?)?;
    ensure!(user["username"] == format!("system:serviceaccount:{ns}:default").as_str(), "{user}");
    let groups = user["groups"].to_string();
    ensure!(
        groups.contains("system:serviceaccounts") && groups.contains(&format!("system:serviceaccounts:{ns}")),
        "{user}"
    );
    let said = claims(&plain)?;
    ensure!(said["iss"] == ISSUER && said["kubernetes.io"]["namespace"] == ns, "{said}");
    ensure!(said["exp"].as_i64().zip(said["iat"].as_i64()).is_some_and(|(e, i)| e - i == 3600), "{said}");
    token(&admin, ns, "default", &json!({"expirationSeconds": 10}))?.refused(422, "Invalid")?;
    token(&admin, ns, "missing", &json!({}))?.refused(404, "NotFound")?;
    // For others than the API server.
    let other = text(&token(&admin, ns, "default", &json!({"audiences": ["vault"]}))?)?;
    nobody.with_token(&other)?.get("/api/v1")?.refused(401, "Unauthorized")?;
    // Bound to a pod: it ends with the pod.
    let pods = format!("/api/v1/namespaces/{ns}/pods");
    let spec = json!({"containers": [{"name": "c", "image": "i"}]});
    let pod = admin.post(&pods, &json!({"metadata": {"name": "p"}, "spec": spec}))?.ok()?;
    let bound = json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": pod["metadata"]["uid"]}});
    let of_pod = text(&token(&admin, ns, "default", &bound)?)?;
    let user = whoami(&nobody.with_token(&of_pod)?)?;
    ensure!(user["extra"]["authentication.kubernetes.io/pod-name"] == json!(["p"]), "{user}");
    let gone = json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "q"}});
    token(&admin, ns, "default", &gone)?.refused(404, "NotFound")?;
    admin.delete(&format!("{pods}/p"))?.ok()?;
    let ended = |token: &str| -> Result<Option<()>> {
        Ok((nobody.with_token(token)?.get("/api/v1")?.code == 401).then_some(()))
    };
    plane.eventually("the pod's token ends with it", 15, || ended(&of_pod))?;
    admin.delete(&format!("/api/v1/namespaces/{ns}/serviceaccounts/default"))?.ok()?;
    plane.eventually("tokens end with their account", 15, || ended(&plain))
}

fn forged_tokens(plane: &ControlPlane, ns: &str) -> Result<()> {
    let (admin, nobody) = (plane.admin()?, plane.client(None)?);
    let good = text(&token(&admin, ns, "default", &json!({}))?)?;
    let said = claims(&good)?;
    let key_id = {
        let header: Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(good.split('.').next().unwrap_or_default())?)?;
        header["kid"].as_str().map(str::to_owned)
    };
    let mut parts: Vec<String> = good.split('.').map(str::to_owned).collect();
    ensure!(parts.len() == 3, "a token has three parts");
    let with = |change: &dyn Fn(&mut Value)| {
        let mut claims = said.clone();
        change(&mut claims);
        claims
    };
    let admin_claims = with(&|c| c["sub"] = json!("system:serviceaccount:kube-system:admin"));
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let mut cases = vec![
        ("nonsense", "nonsense".to_owned()),
        ("dots", "a.b.c".to_owned()),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("no algorithm", format!("{}.{}.", encode(&json!({"alg": "none", "typ": "JWT"})), encode(&said))),
        ("another's claims", format!("{}.{}.{}", parts[0], encode(&admin_claims), parts[2])),
        ("another's key", TokenKey::new()?.sign(key_id.clone(), &said)?),
    ];
    // The public key as if it were a shared secret is what a naive verifier takes.
    let shared = jsonwebtoken::encode(
        &jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256),
        &said,
        &jsonwebtoken::EncodingKey::from_secret(plane.tokens.public().as_bytes()),
    )?;
    cases.push(("a shared secret", shared));
    let signed = |claims: Value| plane.tokens.sign(key_id.clone(), &claims);
    cases.push((
        "expired",
        signed(with(&|c| {
            c["iat"] = json!(pki::seconds_from_now(-7200));
            c["nbf"] = json!(pki::seconds_from_now(-7200));
            c["exp"] = json!(pki::seconds_from_now(-3600));
        }))?,
    ));
    cases.push((
        "of tomorrow",
        signed(with(&|c| {
            c["nbf"] = json!(pki::seconds_from_now(3600));
            c["exp"] = json!(pki::seconds_from_now(7200));
        }))?,
    ));
    cases.push(("another issuer", signed(with(&|c| c["iss"] = json!("https://elsewhere")))?));
    cases.push(("another audience", signed(with(&|c| c["aud"] = json!(["vault"])))?));
    cases.push((
        "another account's uid",
        signed(with(&|c| {
            c["kubernetes.io"]["serviceaccount"]["uid"] = json!("00000000-0000-0000-0000-000000000000");
        }))?,
    ));
    let flipped: String = parts[2].chars().rev().collect();
    parts[2] = flipped;
    cases.push(("a signature reversed", parts.join(".")));
    for (which, token) in cases {
        let answer = nobody.with_token(&token)?.get("/api/v1")?;
        answer.refused(401, "Unauthorized").map_err(|e| e.context(which))?;
        // Not even what nobody may: who shows a bad token is not nobody.
        ensure!(nobody.with_token(&token)?.get("/version")?.code == 401, "{which}");
    }
    let own = signed(said)?;
    ensure!(nobody.with_token(&own)?.get("/api/v1")?.code == 200, "the server's key signs good tokens");
    Ok(())
}

fn token_reviews(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let good = text(&token(&admin, ns, "default", &json!({}))?)?;
    let review = |token: &str| {
        admin.post("/apis/authentication.k8s.io/v1/tokenreviews", &json!({"spec": {"token": token}}))?.ok()
    };
    let known = review(&good)?;
    ensure!(known["status"]["authenticated"] == true, "{known}");
    ensure!(
        known["status"]["user"]["username"] == format!("system:serviceaccount:{ns}:default").as_str(),
        "{known}"
    );
    // Without a wish a token is looked at for the server itself.
    ensure!(known["status"]["audiences"].as_array().is_some_and(|all| !all.is_empty()), "{known}");
    let unknown = review("nonsense")?;
    ensure!(unknown["status"]["error"] == "invalid bearer token", "{unknown}");
    ensure!(unknown["status"].get("authenticated").is_none_or(|a| a == false), "{unknown}");
    ensure!(unknown["status"].get("user").is_none_or(|u| u["username"].is_null()), "{unknown}");
    Ok(())
}

fn grant(admin: &Client, ns: &str, user: &str, rules: &Value) -> Result<()> {
    let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}");
    let role = json!({"metadata": {"name": user}, "rules": rules});
    admin.post(&format!("{rbac}/roles"), &role)?.ok()?;
    let binding = json!({"metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]});
    admin.post(&format!("{rbac}/rolebindings"), &binding)?.ok()?;
    Ok(())
}

fn roles(plane: &ControlPlane, ns: &str) -> Result<()> {
    let (admin, user) = (plane.admin()?, format!("{ns}-reader"));
    let reader = plane.user(&user, "")?;
    admin.post(&config_maps(ns, ""), &json!({"metadata": {"name": "open"}}))?.ok()?;
    admin.post(&config_maps(ns, ""), &json!({"metadata": {"name": "closed"}}))?.ok()?;
    let want = format!(
        "configmaps \"open\" is forbidden: User \"{user}\" cannot get resource \"configmaps\" in API group \"\" in the namespace \"{ns}\""
    );
    reader.get(&config_maps(ns, "open"))?.refused_with(403, "Forbidden", &want)?;
    grant(
        &admin,
        ns,
        &user,
        &json!([{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["open"], "verbs": ["get"]}]),
    )?;
    plane.eventually("the role holds", 10, || {
        Ok((reader.get(&config_maps(ns, "open"))?.code == 200).then_some(()))
    })?;
    reader.get(&config_maps(ns, "closed"))?.refused(403, "Forbidden")?;
    reader.get(&config_maps(ns, ""))?.refused(403, "Forbidden")?;
    reader.get(&config_maps("default", "open"))?.refused(403, "Forbidden")?;
    reader.delete(&config_maps(ns, "open"))?.refused(403, "Forbidden")?;
    reader
        .patch(&config_maps(ns, "open"), MERGE_PATCH, &json!({"data": {"a": "b"}}))?
        .refused(403, "Forbidden")?;
    admin.delete(&format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}/rolebindings/{user}"))?.ok()?;
    plane.eventually("it holds no more", 10, || {
        Ok((reader.get(&config_maps(ns, "open"))?.code == 403).then_some(()))
    })
}

fn escalation(plane: &ControlPlane, ns: &str) -> Result<()> {
    let (admin, user) = (plane.admin()?, format!("{ns}-climber"));
    let climber = plane.user(&user, "")?;
    grant(
        &admin,
        ns,
        &user,
        &json!([
            {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": ["create", "get", "update"]},
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]},
        ]),
    )?;
    let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}");
    let role = |name: &str, verb: &str| json!({"metadata": {"name": name}, "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": [verb]}]});
    plane.eventually("what one has one may grant", 10, || {
        let answer = climber.post(&format!("{rbac}/roles"), &role("same", "get"))?;
        Ok((answer.code == 201).then_some(()))
    })?;
    let more = climber.post(&format!("{rbac}/roles"), &role("more", "delete"))?;
    more.refused_with(403, "Forbidden", "attempting to grant RBAC permissions not currently held")?;
    let binding = json!({"metadata": {"name": "all"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]});
    let bound = climber.post(&format!("{rbac}/rolebindings"), &binding)?;
    bound.refused_with(403, "Forbidden", "attempting to grant RBAC permissions not currently held")?;
    Ok(())
}

fn access_reviews(plane: &ControlPlane, ns: &str) -> Result<()> {
    let (admin, user) = (plane.admin()?, format!("{ns}-asker"));
    let asker = plane.user(&user, "")?;
    grant(
        &admin,
        ns,
        &user,
        &json!([{"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["patch"]}]),
    )?;
    let ask = |client: &Client, kind: &str, verb: &str, more: Value| -> Result<Value> {
        let mut spec = json!({"resourceAttributes": {"namespace": ns, "verb": verb, "group": "apps",
            "resource": "deployments", "subresource": "scale"}});
        if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
            spec.extend(more.clone());
        }
        client.post(&format!("/apis/authorization.k8s.io/v1/{kind}"), &json!({"spec": spec}))?.ok()
    };
    plane.eventually("the role holds", 10, || {
        let review = ask(&asker, "selfsubjectaccessreviews", "patch", json!({}))?;
        Ok((review["status"]["allowed"] == true).then_some(()))
    })?;
    let no = ask(&asker, "selfsubjectaccessreviews", "delete", json!({}))?;
    ensure!(no["status"]["allowed"] == false, "{no}");
    let other = ask(&admin, "subjectaccessreviews", "patch", json!({"user": user}))?;
    ensure!(other["status"]["allowed"] == true, "{other}");
    ensure!(
        other["status"]["reason"].as_str().is_some_and(|r| r.contains("RBAC: allowed by RoleBinding")),
        "{other}"
    );
    let review = json!({"spec": {"namespace": ns}});
    let rules = asker.post("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", &review)?.ok()?;
    ensure!(rules["status"]["resourceRules"].to_string().contains("deployments/scale"), "{rules}");
    ensure!(rules["spec"].get("namespace").is_none(), "{rules}");
    // Selectors are part of what is asked about: nodes list what is theirs.
    let listing = |selector: Value| {
        let attributes = json!({"verb": "list", "resource": "pods", "fieldSelector": selector});
        let spec =
            json!({"user": "system:node:n", "groups": ["system:nodes"], "resourceAttributes": attributes});
        admin.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &json!({"spec": spec}))
    };
    let on = |operator: &str| json!({"requirements": [{"key": "spec.nodeName", "operator": operator, "values": ["n"]}]});
    for (selector, allowed) in [
        (on("In"), true),
        (on("NotIn"), false),
        (json!({"rawSelector": "spec.nodeName=n"}), true),
        (json!({"rawSelector": "spec.nodeName=m"}), false),
    ] {
        let answer = listing(selector.clone())?.ok()?;
        ensure!(answer["status"]["allowed"] == allowed, "{selector}: {answer}");
    }
    listing(json!({}))?.refused_with(422, "Invalid", "requirements or rawSelector is required")?;
    // Asking about others is a right of its own.
    let about = json!({"spec": {"user": "admin", "nonResourceAttributes": {"path": "/", "verb": "get"}}});
    asker.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &about)?.refused(403, "Forbidden")?;
    Ok(())
}

fn creation_by_change(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let name = format!("{ns}-changer");
    let user = plane.user(&name, "")?;
    let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}");
    let rule = |verbs: &Value| {
        json!({"metadata": {"name": "changer"}, "rules": [{"verbs": verbs, "apiGroups": ["", "coordination.k8s.io"],
            "resources": ["configmaps", "leases"]}]})
    };
    admin.post(&format!("{rbac}/roles"), &rule(&json!(["get", "patch", "update"])))?.ok()?;
    let binding = json!({"metadata": {"name": "changer"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "changer"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": name}]});
    admin.post(&format!("{rbac}/rolebindings"), &binding)?.ok()?;
    let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{ns}/leases");
    let lease = json!({"metadata": {"name": "a"}, "spec": {"holderIdentity": "me"}});
    let applied =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "b"}});
    let apply = || {
        let path = format!("{}?fieldManager=me", config_maps(ns, "a"));
        user.send(Method::PATCH, &path, "application/apply-patch+yaml", applied.to_string())
    };
    plane.eventually("the role holds", 10, || {
        Ok((user.get(&config_maps(ns, "a"))?.code == 404).then_some(()))
    })?;
    apply()?.refused_with(403, "Forbidden", "cannot create resource \"configmaps\" in API group \"\"")?;
    let tried = user.put(&format!("{leases}/a?dryRun=All"), &lease)?;
    tried.refused_with(403, "Forbidden", "cannot create resource \"leases\"")?;
    user.put(&format!("{leases}/a"), &lease)?.refused_with(403, "Forbidden", "cannot create resource")?;
    let more = rule(&json!(["get", "patch", "update", "create"]));
    admin.put(&format!("{rbac}/roles/changer"), &more)?.ok()?;
    plane.eventually("the role allows more", 10, || Ok((apply()?.code == 201).then_some(())))?;
    ensure!(user.put(&format!("{leases}/a"), &lease)?.code == 201, "an update creates a lease");
    Ok(())
}

fn impersonation(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let other = admin.with_header("impersonate-user", "jane")?;
    let user = whoami(&other)?;
    ensure!(user["username"] == "jane" && user["groups"] == json!(["system:authenticated"]), "{user}");
    other.get(&config_maps(ns, ""))?.refused(403, "Forbidden")?;
    let grouped = other.with_header("impersonate-group", "dev")?.with_header("impersonate-group", "ops")?;
    let grouped =
        grouped.with_header("impersonate-extra-scope", "view")?.with_header("impersonate-uid", "7")?;
    let user = whoami(&grouped)?;
    ensure!(user["groups"] == json!(["dev", "ops", "system:authenticated"]), "{user}");
    ensure!(user["extra"] == json!({"scope": ["view"]}) && user["uid"] == "7", "{user}");
    let account = admin.with_header("impersonate-user", &format!("system:serviceaccount:{ns}:default"))?;
    ensure!(
        whoami(&account)?["groups"].to_string().contains("system:serviceaccounts"),
        "an account has its groups"
    );
    let plain = plane.user(&format!("{ns}-plain"), "")?;
    let refused = plain.with_header("impersonate-user", "jane")?.get("/api/v1")?;
    refused.refused_with(403, "Forbidden", "cannot impersonate-on:user-info:get path \"/api/v1\"")?;
    plain
        .with_header("impersonate-user", "admin")?
        .with_header("impersonate-group", "system:masters")?
        .get("/api/v1")?
        .refused(403, "Forbidden")?;
    let nobody = admin.with_header("impersonate-group", "dev")?.get("/api/v1")?;
    nobody.refused_with(400, "BadRequest", "without impersonating a user name")?;
    Ok(())
}

/// A client that is the kubelet of a node, and its node.
/// Roles of `user` in a namespace, and in the cluster: verb, group, resource, name.
fn allow(plane: &ControlPlane, ns: &str, user: &str, rules: &[(&str, &str, &str, &str)]) -> Result<()> {
    let admin = plane.admin()?;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let (base, kind) = match ns {
        "" => (format!("{rbac}/cluster"), "ClusterRole"),
        ns => (format!("{rbac}/namespaces/{ns}/"), "Role"),
    };
    let rule = |(verb, group, resource, name): &(&str, &str, &str, &str)| {
        let names = if name.is_empty() { json!([]) } else { json!([name]) };
        json!({"verbs": [verb], "apiGroups": [group], "resources": [resource], "resourceNames": names})
    };
    let name = format!("{user}-{}", rules.len()).replace(':', "-");
    let rules: Vec<Value> = rules.iter().map(rule).collect();
    admin.post(&format!("{base}roles"), &json!({"metadata": {"name": name}, "rules": rules}))?.ok()?;
    let binding = json!({"metadata": {"name": name},
        "subjects": [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": kind, "name": name, "apiGroup": "rbac.authorization.k8s.io"}});
    admin.post(&format!("{base}rolebindings"), &binding)?.ok().map(drop)
}

fn constrained(plane: &ControlPlane, ns: &str) -> Result<()> {
    const GROUP: &str = "authentication.k8s.io";
    let (me, jane) = (format!("{ns}-me"), format!("{ns}-jane"));
    let account = format!("system:serviceaccount:{ns}:default");
    let node = format!("system:node:{ns}-node");
    // Whom one acts as has to be allowed it too.
    for who in [&jane, &account, &node] {
        allow(plane, ns, who, &[("list", "", "configmaps", "")])?;
    }
    allow(plane, ns, &jane, &[("create", "", "configmaps", ""), ("get", "", "configmaps", "")])?;
    allow(
        plane,
        ns,
        &me,
        &[
            ("impersonate-on:user-info:list", "", "configmaps", ""),
            ("impersonate-on:serviceaccount:list", "", "configmaps", ""),
            ("impersonate-on:arbitrary-node:list", "", "configmaps", ""),
        ],
    )?;
    allow(
        plane,
        "",
        &me,
        &[
            ("impersonate:user-info", GROUP, "users", &jane),
            ("impersonate:user-info", GROUP, "groups", "dev"),
            ("impersonate:serviceaccount", GROUP, "serviceaccounts", "default"),
            ("impersonate:arbitrary-node", GROUP, "nodes", &format!("{ns}-node")),
        ],
    )?;
    let mine = plane.user(&me, "")?;
    let maps = config_maps(ns, "");
    for who in [&jane, &account, &node] {
        let other = mine.with_header("impersonate-user", who)?;
        plane.eventually(&format!("{who} is acted as"), 10, || {
            Ok((other.get(&maps)?.code == 200).then_some(()))
        })?;
        // Not for anything else, and nothing of what one is not allowed to act as.
        other.get("/api/v1/nodes")?.refused_with(403, "Forbidden", "cannot impersonate-on:")?;
        let refused = other.post(&maps, &json!({"metadata": {"name": "m"}}))?;
        refused.refused(403, "Forbidden")?;
    }
    let other = mine.with_header("impersonate-user", &jane)?;
    other.with_header("impersonate-group", "dev")?.get(&maps)?.ok()?;
    for (header, value, why) in [
        ("impersonate-group", "ops", "cannot impersonate:user-info resource \"groups\""),
        ("impersonate-group", "system:masters", "impersonating the system:masters group is not allowed"),
        ("impersonate-uid", "7", "cannot impersonate:user-info resource \"uids\""),
        ("impersonate-extra-scope", "view", "must be a domain-prefixed path"),
        (
            "impersonate-extra-a.io%2fscope",
            "view",
            "cannot impersonate:user-info resource \"userextras/a.io/scope\"",
        ),
    ] {
        other.with_header(header, value)?.get(&maps)?.refused_with(403, "Forbidden", why)?;
    }
    mine.with_header("impersonate-user", "somebody")?.get(&maps)?.refused_with(
        403,
        "Forbidden",
        "cannot impersonate:user-info resource \"users\"",
    )?;
    // The groups of a node are known.
    let root = plane.user(&format!("{ns}-root"), "system:masters")?;
    let as_node = root.with_header("impersonate-user", &node)?;
    let groups = whoami(&as_node)?["groups"].clone();
    ensure!(groups == json!(["system:nodes", "system:authenticated"]), "{groups}");
    // Without constraints it goes on as before.
    let old = format!("{ns}-old");
    allow(plane, "", &old, &[("impersonate", "", "users", &jane)])?;
    let other = plane.user(&old, "")?.with_header("impersonate-user", &jane)?;
    plane.eventually("who may act as jane may do all she may", 10, || {
        Ok((other.get(&maps)?.code == 200).then_some(()))
    })?;
    other.post(&maps, &json!({"metadata": {"name": "made"}}))?.ok().map(drop)
}

fn node(plane: &ControlPlane, name: &str) -> Result<Client> {
    let kubelet = plane.user(&format!("system:node:{name}"), "system:nodes")?;
    kubelet.post("/api/v1/nodes", &json!({"metadata": {"name": name}}))?.ok()?;
    Ok(kubelet)
}

fn nodes(plane: &ControlPlane, ns: &str) -> Result<()> {
    let admin = plane.admin()?;
    let (one, two) = (node(plane, &format!("{ns}-one"))?, node(plane, &format!("{ns}-two"))?);
    let secret = |name: &str| format!("/api/v1/namespaces/{ns}/secrets/{name}");
    for name in ["used", "unused"] {
        admin.post(secret("").trim_end_matches('/'), &json!({"metadata": {"name": name}}))?.ok()?;
    }
    let pods = format!("/api/v1/namespaces/{ns}/pods");
    let spec = json!({"nodeName": format!("{ns}-one"), "containers": [{"name": "c", "image": "i",
        "envFrom": [{"secretRef": {"name": "used"}}]}]});
    admin.post(&pods, &json!({"metadata": {"name": "p"}, "spec": spec}))?.ok()?;
    plane.eventually("a node reads what its pods use", 10, || {
        Ok((one.get(&secret("used"))?.code == 200).then_some(()))
    })?;
    one.get(&secret("unused"))?.refused_with(403, "Forbidden", "no relationship found between node")?;
    two.get(&secret("used"))?.refused(403, "Forbidden")?;
    one.get(secret("").trim_end_matches('/'))?.refused(403, "Forbidden")?;
    let mine = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{ns}-one");
    ensure!(one.get(&mine)?.ok()?["items"].as_array().map(Vec::len) == Some(1), "its pods");
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let account = format!("/api/v1/namespaces/{ns}/serviceaccounts/default/token");
    one.post(&account, &request)?.refused(403, "Forbidden")?;
    Ok(())
}

fn node_restriction(plane: &ControlPlane, ns: &str) -> Result<()> {
    let (mine, other) = (format!("{ns}-mine"), format!("{ns}-other"));
    let kubelet = node(plane, &mine)?;
    node(plane, &other)?;
    let path = |name: &str| format!("/api/v1/nodes/{name}");
    kubelet
        .patch(&format!("{}/status", path(&mine)), MERGE_PATCH, &json!({"status": {"conditions": []}}))?
        .ok()?;
    kubelet
        .patch(&path(&other), MERGE_PATCH, &json!({"metadata": {"labels": {"a": "b"}}}))?
        .refused(403, "Forbidden")?;
    kubelet
        .patch(&format!("{}/status", path(&other)), MERGE_PATCH, &json!({"status": {}}))?
        .refused(403, "Forbidden")?;
    for label in ["node-restriction.kubernetes.io/a", "node-role.kubernetes.io/control-plane"] {
        let labels = json!({"metadata": {"labels": {label: "b"}}});
        kubelet.patch(&path(&mine), MERGE_PATCH, &labels)?.refused_with(
            403,
            "Forbidden",
            "is not allowed to modify labels",
        )?;
    }
    let taints = json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}});
    kubelet.patch(&path(&mine), MERGE_PATCH, &taints)?.refused_with(
        403,
        "Forbidden",
        "is not allowed to modify taints",
    )?;
    let pods = format!("/api/v1/namespaces/{ns}/pods");
    let mirror = |node: &str| {
        json!({"metadata": {"name": "static", "annotations": {"kubernetes.io/config.mirror": "x"}},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}})
    };
    kubelet.post(&pods, &mirror(&other))?.refused(403, "Forbidden")?;
    let plain = json!({"metadata": {"name": "plain"}, "spec": {"nodeName": mine, "containers": [{"name": "c", "image": "i"}]}});
    kubelet.post(&pods, &plain)?.refused(403, "Forbidden")?;
    kubelet.delete(&path(&other))?.refused(403, "Forbidden")?;
    let lease = |name: &str| json!({"metadata": {"name": name}, "spec": {"holderIdentity": name}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    kubelet.post(leases, &lease(&other))?.refused(403, "Forbidden")?;
    kubelet.post(leases, &lease(&mine))?.ok()?;
    Ok(())
}

fn node_audiences(plane: &ControlPlane, ns: &str) -> Result<()> {
    let name = format!("{ns}-node");
    let kubelet = node(plane, &name)?;
    let admin = plane.admin()?;
    let driver = format!("{ns}.example.com");
    let spec = json!({"attachRequired": false, "tokenRequests": [{"audience": "driver"}]});
    let drivers = "/apis/storage.k8s.io/v1/csidrivers";
    admin.post(drivers, &json!({"metadata": {"name": driver}, "spec": spec}))?.ok()?;
    let volumes = json!([{"name": "csi", "csi": {"driver": driver}}, {"name": "token", "projected": {"sources": [
        {"serviceAccountToken": {"audience": "vault", "path": "t"}}]}}]);
    let spec = json!({"nodeName": name, "serviceAccountName": "default", "volumes": volumes,
        "automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i"}]});
    let pods = format!("/api/v1/namespaces/{ns}/pods");
    let pod = admin.post(&pods, &json!({"metadata": {"name": "p"}, "spec": spec}))?.ok()?;
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": pod["metadata"]["uid"]});
    let path = format!("/api/v1/namespaces/{ns}/serviceaccounts/default/token");
    let ask = |audiences: Value| {
        let spec = json!({"audiences": audiences, "boundObjectRef": bound});
        kubelet.post(
            &path,
            &json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}),
        )
    };
    plane.eventually("the node may ask for what its pod wants", 10, || {
        Ok((ask(json!(["vault"]))?.code == 201).then_some(()))
    })?;
    plane.eventually("a driver's audience counts", 10, || {
        Ok((ask(json!(["driver"]))?.code == 201).then_some(()))
    })?;
    let refused =
        format!("audience \"other\" not found in pod spec volume, system:node:{name} is not authorized");
    ask(json!(["other"]))?.refused_with(403, "Forbidden", &refused)?;
    ask(json!([]))?.refused_with(403, "Forbidden", "audience \"\" not found in pod spec volume")?;
    ask(json!(["vault", "driver"]))?.refused_with(
        403,
        "Forbidden",
        "node may only request 0 or 1 audiences",
    )?;
    // Who may be asked for is also a matter of permissions.
    let rbac = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{ns}");
    let rule = json!({"apiGroups": [""], "verbs": ["request-serviceaccounts-token-audience"], "resources": ["other"],
        "resourceNames": ["default"]});
    admin.post(&format!("{rbac}/roles"), &json!({"metadata": {"name": "other"}, "rules": [rule]}))?.ok()?;
    let binding = json!({"metadata": {"name": "other"},
        "subjects": [{"kind": "Group", "name": "system:nodes", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": "Role", "name": "other", "apiGroup": "rbac.authorization.k8s.io"}});
    admin.post(&format!("{rbac}/rolebindings"), &binding)?.ok()?;
    plane.eventually("the node may ask for more", 10, || {
        Ok((ask(json!(["other"]))?.code == 201).then_some(()))
    })?;
    ask(json!(["third"]))?.refused(403, "Forbidden").map(drop)
}
