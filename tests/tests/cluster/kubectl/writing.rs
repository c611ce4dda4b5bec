//! Verbs that make and change objects: create, apply, diff, edit, patch, replace, label and annotate.

use std::fs;

use anyhow::{Context, Result, ensure};
use tests::{Cluster, runner::Test};

use crate::{fails, field, run, says};

pub(crate) const TESTS: &[Test<Cluster>] = &[
    ("create makes objects of every kind it knows", create),
    ("create refuses what is there, what is wrong and what is not asked for", create_refusals),
    ("apply merges three ways, diff tells before", apply_client),
    ("apply by the server keeps owners apart", apply_server),
    ("edit opens an editor and stores what it leaves", edit),
    ("patches of three kinds change one thing", patch),
    ("replace puts a whole object, by force anew", replace),
    ("labels and annotations are set, overwritten and removed", marks),
    ("dry runs tell and keep nothing", dry_run),
];

fn manifest(name: &str, colour: &str, more: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata:\n  colour: {colour}\n{more}")
}

fn create(c: &Cluster, ns: &str) -> Result<()> {
    let image = "--image=keelson.local/busybox:1";
    let certificate = c.folder().join("tls.crt");
    let key = c.folder().join("tls.key");
    let pair = tests::pki::Authority::new("own")?.server()?;
    fs::write(&certificate, &pair.cert)?;
    fs::write(&key, &pair.key)?;
    let (certificate, key) =
        (format!("--cert={}", certificate.display()), format!("--key={}", key.display()));
    let commands: &[(&[&str], &str)] = &[
        (&["configmap", "settings", "--from-literal=a=b"], "configmap/settings"),
        (&["secret", "generic", "password", "--from-literal=a=b"], "secret/password"),
        (&["secret", "tls", "certificate", &certificate, &key], "secret/certificate"),
        (
            &["secret", "docker-registry", "registry", "--docker-username=u", "--docker-password=p"],
            "secret/registry",
        ),
        (&["serviceaccount", "robot"], "serviceaccount/robot"),
        (
            &["role", "reader", "--verb=get,list", "--resource=pods,deployments.apps"],
            "role.rbac.authorization.k8s.io/reader",
        ),
        (
            &["rolebinding", "reader", "--role=reader", "--user=ann"],
            "rolebinding.rbac.authorization.k8s.io/reader",
        ),
        (&["quota", "bounds", "--hard=pods=50,configmaps=50"], "resourcequota/bounds"),
        (
            &["poddisruptionbudget", "budget", "--selector=app=a", "--min-available=1"],
            "poddisruptionbudget.policy/budget",
        ),
        (&["service", "clusterip", "plain", "--tcp=80:8080"], "service/plain"),
        (&["service", "nodeport", "open", "--tcp=80"], "service/open"),
        (&["service", "loadbalancer", "balanced", "--tcp=80"], "service/balanced"),
        (&["service", "externalname", "elsewhere", "--external-name=a.example.test"], "service/elsewhere"),
        (&["service", "clusterip", "headless", "--clusterip=None"], "service/headless"),
        (
            &["ingress", "door", "--class=nobody", "--rule=a.example.test/*=plain:80,tls=certificate"],
            "ingress.networking.k8s.io/door",
        ),
        (&["deployment", "idle", image, "--replicas=0"], "deployment.apps/idle"),
        (&["job", "once", image, "--", "true"], "job.batch/once"),
        (&["cronjob", "yearly", image, "--schedule=0 0 1 1 *", "--", "true"], "cronjob.batch/yearly"),
    ];
    for (args, object) in commands {
        let told = run(c, ns, &[&["create"], *args].concat())?;
        let (kind, name) = object.split_once('/').context("kind/name")?;
        ensure!(
            told.starts_with(kind) && told.contains(name) && told.ends_with("created\n"),
            "{args:?}: {told}"
        );
        ensure!(run(c, ns, &["get", object, "-o", "name"])?.trim() == *object, "{object} is not there");
    }
    let global = format!("{ns}-global");
    run(
        c,
        ns,
        &["create", "clusterrole", &global, "--verb=get", "--resource=nodes", "--non-resource-url=/logs"],
    )?;
    run(
        c,
        ns,
        &[
            "create",
            "clusterrolebinding",
            &global,
            &format!("--clusterrole={global}"),
            &format!("--serviceaccount={ns}:robot"),
        ],
    )?;
    run(c, ns, &["create", "priorityclass", &global, "--value=1000", "--description=more"])?;
    ensure!(field(c, ns, &format!("priorityclass/{global}"), ".value")? == "1000", "its value");
    run(c, ns, &["delete", "clusterrole,clusterrolebinding,priorityclass", &global])?;
    let token = run(c, ns, &["create", "token", "robot", "--duration=10m", "--audience=vault"])?;
    ensure!(token.trim().split('.').count() == 3, "{token}");
    ensure!(field(c, ns, "secret/certificate", ".type")? == "kubernetes.io/tls", "its type");
    ensure!(field(c, ns, "secret/registry", ".type")? == "kubernetes.io/dockerconfigjson", "its type");
    c.eventually("the quota counts", 20, |c| {
        let used = field(c, ns, "resourcequota/bounds", ".status.used.configmaps")?;
        ensure!(used == "2", "{used:?}");
        Ok(Some(()))
    })
}

fn create_refusals(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["create", "configmap", "there"])?;
    fails(c, ns, &["create", "configmap", "there"], "configmaps \"there\" already exists")?;
    fails(c, ns, &["create", "configmap", "Not_A_Name"], "a lowercase RFC 1123 subdomain must consist of")?;
    fails(c, "no-such-place", &["create", "configmap", "a"], "namespaces \"no-such-place\" not found")?;
    let from = |text: &str| c.kubectl_with(&["--namespace", ns, "create", "-f", "-"], text);
    for (text, why) in [
        (
            "apiVersion: v1\nkind: Chair\nmetadata: {name: a}\n",
            "no matches for kind \"Chair\" in version \"v1\"",
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndate: {}\n",
            "strict decoding error: unknown field \"date\"",
        ),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {n: 1}\n", "data"),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: elsewhere}\n", "does not match"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}\n",
            "spec.containers: Required value",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: i, ports: [{containerPort: 70000}]}]}\n",
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: c}}, spec: {containers: [{name: a, image: i}]}}}\n",
            "`selector` does not match template `labels`",
        ),
        (
            "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: a}\nspec: {schedule: sometimes, jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: i}]}}}}}\n",
            "spec.schedule: Invalid value: \"sometimes\"",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {clusterIP: 192.0.2.1, ports: [{port: 80}]}\n",
            "not in the valid range",
        ),
        ("{", "error"),
    ] {
        let told = from(text).err().with_context(|| format!("this was taken: {text}"))?.to_string();
        ensure!(told.contains(why), "{why:?} is not told of {text}: {told}");
    }
    let names = run(c, ns, &["get", "configmaps,pods,deployments,cronjobs,services", "-o", "name"])?;
    ensure!(names == "configmap/kube-root-ca.crt\nconfigmap/there\n", "{names}");
    // What is not asked to be strict is warned about.
    let mut lenient = c.kubectl_background(ns, &["create", "--validate=warn", "-f", "-"], false)?;
    lenient.type_line(r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"lenient"},"date":{}}"#)?;
    lenient.close_input();
    lenient.line("Warning: unknown field \"date\"", 20)?;
    ensure!(lenient.end(20)?.success(), "it was refused");
    // Several documents are made as far as they can be.
    let both = format!("{}---\n{}", manifest("one", "red", ""), manifest("there", "red", ""));
    ensure!(from(&both).is_err_and(|e| e.to_string().contains("already exists")), "the second was taken");
    run(c, ns, &["get", "configmap", "one"]).map(drop)
}

fn apply_client(c: &Cluster, ns: &str) -> Result<()> {
    let apply = |text: &str| c.kubectl_with(&["--namespace", ns, "apply", "-f", "-"], text);
    let told = apply(&manifest("settings", "blue", "  size: '1'\n"))?;
    ensure!(told == "configmap/settings created\n", "{told}");
    ensure!(apply(&manifest("settings", "blue", "  size: '1'\n"))?.contains("unchanged"), "it changed");
    run(c, ns, &["patch", "configmap", "settings", "-p", r#"{"data":{"foreign":"stays"}}"#])?;
    // diff ends with 1 where there is a difference.
    let file = c.folder().join(format!("{ns}.yaml"));
    fs::write(&file, manifest("settings", "green", ""))?;
    let file = file.to_string_lossy();
    let diff = c.kubectl_command(&["--namespace", ns, "diff", "-f", &file]).output()?;
    let said = String::from_utf8_lossy(&diff.stdout);
    ensure!(diff.status.code() == Some(1), "diff ended with {}: {said}", diff.status);
    ensure!(says(&said, &["-  colour: blue", "+  colour: green", "-  size: \"1\""]), "{said}");
    ensure!(field(c, ns, "configmap/settings", ".data.colour")? == "blue", "diff changed something");
    let last = run(c, ns, &["apply", "view-last-applied", "configmap/settings"])?;
    ensure!(last.contains("colour: blue"), "{last}");
    ensure!(run(c, ns, &["apply", "-f", &file])? == "configmap/settings configured\n", "its word");
    let data = field(c, ns, "configmap/settings", ".data")?;
    ensure!(data == r#"{"colour":"green","foreign":"stays"}"#, "{data}");
    ensure!(
        c.kubectl_command(&["--namespace", ns, "diff", "-f", &file]).output()?.status.success(),
        "still different"
    );
    // Lists of a deployment's containers are merged by name.
    let web = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {replicas: 0, selector: {matchLabels: {app: web}}, \
               template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: 'keelson.local/web:1', env: [{name: A, value: a}]}]}}}\n";
    apply(web)?;
    run(c, ns, &["set", "env", "deployment/web", "B=b"])?;
    apply(&web.replace("web:1", "web:2").replace("value: a", "value: c"))?;
    let container = field(c, ns, "deployment/web", ".spec.template.spec.containers[0].env")?;
    ensure!(says(&container, &[r#"{"name":"A","value":"c"}"#, r#"{"name":"B","value":"b"}"#]), "{container}");
    ensure!(
        field(c, ns, "deployment/web", ".spec.template.spec.containers[*].image")? == "keelson.local/web:2",
        "one container"
    );
    let immutable = apply(&web.replace("app: web", "app: other"));
    ensure!(
        immutable.is_err_and(|e| e.to_string().contains("field is immutable")),
        "its selector was changed"
    );
    Ok(())
}

fn apply_server(c: &Cluster, ns: &str) -> Result<()> {
    let apply = |manager: &str, force: bool, text: &str| {
        let manager = format!("--field-manager={manager}");
        let mut args = vec!["--namespace", ns, "apply", "--server-side", &manager, "-f", "-"];
        if force {
            args.push("--force-conflicts");
        }
        c.kubectl_with(&args, text)
    };
    let told = apply("first", false, &manifest("settings", "blue", "  size: '1'\n"))?;
    ensure!(told == "configmap/settings serverside-applied\n", "{told}");
    let conflict = apply("second", false, &manifest("settings", "green", ""));
    let told = format!("{:#}", conflict.err().context("a conflict")?);
    ensure!(says(&told, &["conflict with \"first\"", ".data.colour", "--force-conflicts"]), "{told}");
    apply("second", true, &manifest("settings", "green", ""))?;
    apply("first", false, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {}\n")?;
    ensure!(field(c, ns, "configmap/settings", ".data")? == r#"{"colour":"green"}"#, "what each owns");
    let managers = field(c, ns, "configmap/settings", ".metadata.managedFields[*].manager")?;
    ensure!(managers.contains("second"), "{managers}");
    // Who applied by the client goes over to the server with what was applied.
    c.kubectl_with(&["--namespace", ns, "apply", "-f", "-"], &manifest("moved", "blue", "  size: '1'\n"))?;
    let told = c.kubectl_with(
        &["--namespace", ns, "apply", "--server-side", "-f", "-"],
        &manifest("moved", "blue", ""),
    )?;
    ensure!(told.contains("serverside-applied"), "{told}");
    ensure!(field(c, ns, "configmap/moved", ".data")? == r#"{"colour":"blue"}"#, "what is left out goes");
    Ok(())
}

fn edit(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["create", "configmap", "settings", "--from-literal=colour=blue"])?;
    let edit = |editor: &str| {
        let mut command = c.kubectl_command(&["--namespace", ns, "edit", "configmap", "settings"]);
        command.env("KUBE_EDITOR", editor).env("TMPDIR", c.folder()).output()
    };
    let done = edit("sed -i s/blue/green/")?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    ensure!(String::from_utf8_lossy(&done.stdout).contains("configmap/settings edited"), "its word");
    ensure!(field(c, ns, "configmap/settings", ".data.colour")? == "green", "it was not stored");
    let nothing = edit("true")?;
    let said = [nothing.stdout, nothing.stderr].concat();
    ensure!(String::from_utf8_lossy(&said).contains("Edit cancelled, no changes made."), "no changes");
    let wrong = edit("sed -i s/^data:/date:/")?;
    ensure!(!wrong.status.success(), "a wrong edit was taken");
    ensure!(field(c, ns, "configmap/settings", ".data.colour")? == "green", "it was stored");
    Ok(())
}

fn patch(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["create", "deployment", "web", "--image=keelson.local/web:1", "--replicas=0"])?;
    let patch =
        |kind: &str, text: &str| run(c, ns, &["patch", "deployment", "web", "--type", kind, "-p", text]);
    let containers = ".spec.template.spec.containers[*].name";
    let told =
        patch("strategic", r#"{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"i"}]}}}}"#)?;
    ensure!(told == "deployment.apps/web patched\n", "{told}");
    ensure!(field(c, ns, "deployment/web", containers)? == "side web", "merged by name");
    patch("merge", r#"{"spec":{"template":{"spec":{"containers":[{"name":"only","image":"i"}]}}}}"#)?;
    ensure!(field(c, ns, "deployment/web", containers)? == "only", "replaced as a whole");
    patch(
        "json",
        r#"[{"op":"test","path":"/spec/replicas","value":0},{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"j"}]"#,
    )?;
    ensure!(field(c, ns, "deployment/web", ".spec.template.spec.containers[0].image")? == "j", "one value");
    ensure!(patch("merge", r#"{"spec":{"replicas":0}}"#)?.contains("patched (no change)"), "nothing to do");
    run(
        c,
        ns,
        &[
            "patch",
            "deployment",
            "web",
            "--subresource=scale",
            "--type=merge",
            "-p",
            r#"{"spec":{"replicas":1}}"#,
        ],
    )?;
    ensure!(field(c, ns, "deployment/web", ".spec.replicas")? == "1", "through the scale");
    for (kind, text, why) in [
        (
            "json",
            r#"[{"op":"remove","path":"/spec/colour"}]"#,
            "the server rejected our request due to an error in our request",
        ),
        (
            "json",
            r#"[{"op":"test","path":"/spec/replicas","value":7}]"#,
            "the server rejected our request due to an error in our request",
        ),
        ("merge", r#"{"spec":{"replicas":"many"}}"#, "replicas"),
        (
            "strategic",
            r#"{"spec":{"replicas":-1}}"#,
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        ("merge", "{", "error"),
    ] {
        let told = patch(kind, text).err().with_context(|| format!("{text} was taken"))?.to_string();
        ensure!(told.contains(why), "{text}: {told}");
    }
    Ok(())
}

fn replace(c: &Cluster, ns: &str) -> Result<()> {
    let put = |more: &[&str], text: &str| {
        c.kubectl_with(&[&["--namespace", ns, "replace", "-f", "-"], more].concat(), text)
    };
    ensure!(
        put(&[], &manifest("settings", "red", "")).is_err_and(|e| e.to_string().contains("not found")),
        "made by replace"
    );
    run(c, ns, &["create", "configmap", "settings", "--from-literal=colour=blue", "--from-literal=size=1"])?;
    let (uid, old) = (
        field(c, ns, "configmap/settings", ".metadata.uid")?,
        run(c, ns, &["get", "configmap", "settings", "-o", "yaml"])?,
    );
    ensure!(put(&[], &manifest("settings", "red", ""))? == "configmap/settings replaced\n", "its word");
    ensure!(field(c, ns, "configmap/settings", ".data")? == r#"{"colour":"red"}"#, "the whole object");
    ensure!(field(c, ns, "configmap/settings", ".metadata.uid")? == uid, "the same object");
    let stale = put(&[], &old).err().context("an old version was taken")?.to_string();
    ensure!(says(&stale, &["(Conflict)", "the object has been modified"]), "{stale}");
    put(&["--force"], &manifest("settings", "green", ""))?;
    ensure!(field(c, ns, "configmap/settings", ".metadata.uid")? != uid, "another object");
    Ok(())
}

fn marks(c: &Cluster, ns: &str) -> Result<()> {
    run(c, ns, &["create", "configmap", "settings"])?;
    run(c, ns, &["label", "configmap", "settings", "colour=blue", "size=1"])?;
    fails(c, ns, &["label", "configmap", "settings", "colour=red"], "--overwrite is false")?;
    run(c, ns, &["label", "configmap", "settings", "colour=red", "size-", "--overwrite"])?;
    ensure!(field(c, ns, "configmap/settings", ".metadata.labels")? == r#"{"colour":"red"}"#, "its labels");
    fails(c, ns, &["label", "configmap", "settings", "bad=not a label"], "a valid label must be")?;
    run(c, ns, &["annotate", "configmap", "settings", "note=any text, even this"])?;
    ensure!(
        field(c, ns, "configmap/settings", ".metadata.annotations.note")? == "any text, even this",
        "its note"
    );
    run(c, ns, &["annotate", "configmaps", "--all", "note-"])?;
    ensure!(field(c, ns, "configmap/settings", ".metadata.annotations")?.is_empty(), "its note went");
    ensure!(
        run(c, ns, &["get", "configmaps", "-l", "colour=red,!size", "-o", "name"])? == "configmap/settings\n",
        "it is found"
    );
    Ok(())
}

fn dry_run(c: &Cluster, ns: &str) -> Result<()> {
    let client = run(c, ns, &["create", "deployment", "web", "--image=i", "--dry-run=client", "-o", "yaml"])?;
    ensure!(client.contains("kind: Deployment") && !client.contains("uid:"), "{client}");
    let server = run(c, ns, &["create", "deployment", "web", "--image=i", "--dry-run=server", "-o", "yaml"])?;
    ensure!(says(&server, &["uid:", "terminationGracePeriodSeconds: 30", "maxSurge: 25%"]), "{server}");
    let told = c.kubectl_with(
        &["--namespace", ns, "apply", "--dry-run=server", "-f", "-"],
        &manifest("a", "b", ""),
    )?;
    ensure!(told == "configmap/a created (server dry run)\n", "{told}");
    run(c, ns, &["create", "configmap", "settings", "--from-literal=a=b"])?;
    run(c, ns, &["patch", "configmap", "settings", "-p", r#"{"data":{"a":"c"}}"#, "--dry-run=server"])?;
    run(c, ns, &["delete", "configmap", "settings", "--dry-run=server"])?;
    ensure!(field(c, ns, "configmap/settings", ".data.a")? == "b", "it was changed");
    let names = run(c, ns, &["get", "deployments,configmaps", "-o", "name"])?;
    ensure!(names == "configmap/kube-root-ca.crt\nconfigmap/settings\n", "{names}");
    Ok(())
}
