//! auth can-i, whoami and reconcile, impersonation, certificates and tokens as kubectl handles them.

use anyhow::{Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use tests::{Cluster, runner::Test};

use crate::{fails, field, kubeconfig, run, says, wait_field};

pub(crate) const TESTS: &[Test<Cluster>] = &[
    ("auth tells who one is and what one may", can_i),
    ("auth reconcile makes and widens roles", reconcile),
    ("certificates are requested, approved, signed and used", certificates),
    ("a user of a token is held to the account's roles", tokens),
];

fn can_i(c: &Cluster, ns: &str) -> Result<()> {
    let who = run(c, ns, &["auth", "whoami"])?;
    ensure!(
        says(&who, &["ATTRIBUTE", "Username", "kubernetes-admin", "system:masters", "system:authenticated"]),
        "{who}"
    );
    let other =
        run(c, ns, &["auth", "whoami", "--as=ann", "--as-group=team", "-o", "jsonpath={.status.userInfo}"])?;
    ensure!(says(&other, &["\"ann\"", "\"team\"", "system:authenticated"]), "{other}");
    ensure!(run(c, ns, &["auth", "can-i", "create", "pods"])? == "yes\n", "the admin may");
    fails(c, ns, &["auth", "can-i", "create", "pods", "--as=ann"], "no")?;
    run(c, ns, &["create", "rolebinding", "ann", "--clusterrole=view", "--user=ann"])?;
    c.eventually("a new binding allows", 10, |c| {
        Ok(run(c, ns, &["auth", "can-i", "list", "pods", "--as=ann"]).is_ok().then_some(()))
    })?;
    fails(c, ns, &["auth", "can-i", "get", "secrets", "--as=ann"], "no")?;
    fails(c, "default", &["auth", "can-i", "list", "pods", "--as=ann"], "no")?;
    fails(c, ns, &["auth", "can-i", "get", "pods", "--subresource=log", "--as=bob"], "no")?;
    run(c, ns, &["auth", "can-i", "get", "pods", "--subresource=log", "--as=ann"])?;
    let list = run(c, ns, &["auth", "can-i", "--list", "--as=ann"])?;
    ensure!(
        says(&list, &["Resources", "Verbs", "pods", "[get list watch]", "selfsubjectaccessreviews"]),
        "{list}"
    );
    fails(
        c,
        ns,
        &["get", "secrets", "--as=ann"],
        "secrets is forbidden: User \"ann\" cannot list resource \"secrets\" in API group \"\" in the namespace",
    )?;
    fails(
        c,
        ns,
        &["create", "configmap", "a", "--as=ann"],
        "configmaps is forbidden: User \"ann\" cannot create resource \"configmaps\"",
    )
}

fn reconcile(c: &Cluster, ns: &str) -> Result<()> {
    let role = |verbs: &str| {
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {{name: r, namespace: {ns}}}\nrules: [{{apiGroups: [''], resources: [pods], verbs: [{verbs}]}}]\n"
        )
    };
    c.kubectl_with(&["auth", "reconcile", "-f", "-"], &role("get"))?;
    let told = c.kubectl_with(&["auth", "reconcile", "-f", "-"], &role("list"))?;
    ensure!(told.contains("role.rbac.authorization.k8s.io/r reconciled"), "{told}");
    let rules = field(c, ns, "role/r", ".rules")?;
    ensure!(says(&rules, &["get", "list"]), "{rules}");
    Ok(())
}

fn certificates(c: &Cluster, ns: &str) -> Result<()> {
    let name = format!("{ns}-ann");
    let (request, key) = tests::pki::request("ann", "team")?;
    let object = |signer: &str, name: &str| {
        format!(
            "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\nspec:\n  \
             request: {}\n  signerName: {signer}\n  usages: [client auth]\n  expirationSeconds: 3600\n",
            STANDARD.encode(&request)
        )
    };
    let client = "kubernetes.io/kube-apiserver-client";
    c.kubectl_with(&["create", "-f", "-"], &object(client, &name))?;
    ensure!(run(c, ns, &["get", "csr", &name])?.contains("Pending"), "it waits");
    run(c, ns, &["certificate", "approve", &name])?;
    let issued = c.eventually("it is signed", 30, |c| {
        let text = field(c, ns, &format!("csr/{name}"), ".status.certificate")?;
        Ok((!text.is_empty()).then_some(text))
    })?;
    ensure!(run(c, ns, &["get", "csr", &name])?.contains("Approved,Issued"), "its state");
    let user = format!("{{client-certificate-data: {issued}, client-key-data: {}}}", STANDARD.encode(key));
    let ann = kubeconfig(c, &name, "", &user)?;
    let who = run(c, ns, &["auth", "whoami", &ann, "-o", "jsonpath={.status.userInfo}"])?;
    ensure!(says(&who, &["\"ann\"", "\"team\""]), "{who}");
    fails(c, ns, &["get", "pods", &ann], "User \"ann\" cannot list resource \"pods\"")?;
    let denied = format!("{ns}-denied");
    c.kubectl_with(&["create", "-f", "-"], &object(client, &denied))?;
    run(c, ns, &["certificate", "deny", &denied])?;
    wait_field(c, ns, &format!("csr/{denied}"), ".status.conditions[0].type", "Denied")?;
    ensure!(field(c, ns, &format!("csr/{denied}"), ".status.certificate")?.is_empty(), "it was signed");
    run(c, ns, &["delete", "csr", &name, &denied]).map(drop)
}

fn tokens(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["create", "serviceaccount", "robot"])?;
    run(
        c,
        ns,
        &["create", "rolebinding", "robot", "--clusterrole=edit", &format!("--serviceaccount={ns}:robot")],
    )?;
    let token = run(c, ns, &["create", "token", "robot"])?;
    let file = kubeconfig(c, ns, "", &format!("{{token: '{}'}}", token.trim()))?;
    let robot = |args: &[&str]| run(c, ns, &[args, &[file.as_str()]].concat());
    c.eventually("the token's account may what its role says", 10, |_| {
        robot(&["create", "configmap", "made"])?;
        Ok(Some(()))
    })?;
    let who = robot(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"])?;
    ensure!(who == format!("system:serviceaccount:{ns}:robot"), "{who}");
    ensure!(
        robot(&["get", "nodes"]).is_err_and(|e| e.to_string().contains("(Forbidden)")),
        "nodes are not its own"
    );
    run(c, ns, &["delete", "serviceaccount", "robot"])?;
    c.eventually("the token ends with its account", 30, |_| {
        Ok(robot(&["get", "configmaps"]).is_err_and(|e| e.to_string().contains("logged in")).then_some(()))
    })
}
