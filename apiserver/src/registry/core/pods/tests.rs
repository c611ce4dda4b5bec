//! Pods through their strategy: each rule once broken, with the path and the words clients know.

use component_base::features::Gate;
use serde_json::{Value, json};

use crate::registry::testing::{Kind, changed};

fn pod() -> Value {
    json!({
        "metadata": {"name": "p", "namespace": "d", "labels": {"app": "a"}, "annotations": {}},
        "spec": {
            "containers": [{"name": "c", "image": "i:1", "resources": {}, "securityContext": {}, "ports": [], "env": [],
                "volumeMounts": [], "envFrom": []}],
            "initContainers": [{"name": "i", "image": "i:1"}],
            "volumes": [{"name": "v", "emptyDir": {}}],
            "securityContext": {},
            "serviceAccountName": "default",
        },
    })
}

fn pods() -> Kind {
    Kind::new("", "pods")
}

/// Errors of a good pod with changes.
fn errors(changes: &[(&str, Value)]) -> Vec<String> {
    pods().errors(changed(&pod(), changes))
}

fn check(cases: &[(&str, Value, &str)]) {
    for (pointer, value, want) in cases {
        let found = errors(&[(pointer, value.clone())]);
        match want.is_empty() {
            true => assert!(found.is_empty(), "{pointer} {value}: {found:#?}"),
            false => assert!(found.iter().any(|e| e == want), "{pointer} {value}: {want}\n{found:#?}"),
        }
    }
}

#[test]
fn a_good_pod_has_no_errors() {
    assert_eq!(errors(&[]), Vec::<String>::new());
    let bare = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(pods().errors(bare), Vec::<String>::new());
}

#[test]
fn containers_have_names_images_and_ports() {
    let c = "/spec/containers/0";
    let at = |field: &str| format!("{c}/{field}");
    let port = |value: Value| (at("ports"), json!([value]));
    let cases = [
        (at("name"), json!(""), "spec.containers[0].name: Required value"),
        (at("name"), json!("a.b"), "spec.containers[0].name: Invalid value: \"a.b\": must not contain dots"),
        (at("name"), json!("i"), "spec.initContainers[0].name: Duplicate value: \"i\""),
        (at("image"), json!(""), "spec.containers[0].image: Required value"),
        (
            at("image"),
            json!(" i"),
            "spec.containers[0].image: Invalid value: \" i\": must not have leading or trailing whitespace",
        ),
        (
            at("imagePullPolicy"),
            json!("Sometimes"),
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \
             \"IfNotPresent\", \"Never\"",
        ),
        (
            at("terminationMessagePolicy"),
            json!("x"),
            "spec.containers[0].terminationMessagePolicy: Unsupported value: \"x\": supported values: \"File\", \
             \"FallbackToLogsOnError\"",
        ),
        (
            port(json!({"containerPort": 0})).0,
            port(json!({"containerPort": 0})).1,
            "spec.containers[0].ports[0].containerPort: Required value",
        ),
        (
            at("ports"),
            json!([{"containerPort": 70000}]),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            at("ports"),
            json!([{"containerPort": 1, "protocol": "ICMP"}]),
            "spec.containers[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ),
        (
            at("ports"),
            json!([{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]),
            "spec.containers[0].ports[1].name: Duplicate value: \"a\"",
        ),
        (
            at("ports"),
            json!([{"containerPort": 1, "hostPort": 5}, {"containerPort": 2, "hostPort": 5}]),
            "spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//5\"",
        ),
        (
            at("restartPolicyRules"),
            json!([{}]),
            "spec.containers[0].restartPolicy: Required value: must specify \
             restartPolicy when restart rules are used",
        ),
        (at("resizePolicy"), json!([{"resourceName": "cpu", "restartPolicy": "NotRequired"}]), ""),
        (
            at("resizePolicy"),
            json!([{"resourceName": "disk", "restartPolicy": "NotRequired"}]),
            "spec.containers[0].resizePolicy: Unsupported value: \"disk\": supported values: \"cpu\", \"memory\"",
        ),
        ("/spec/containers".to_owned(), json!([]), "spec.containers: Required value"),
        (
            "/spec/initContainers/0/livenessProbe".to_owned(),
            json!({"exec": {"command": ["a"]}}),
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without \
             restartPolicy=Always",
        ),
        (
            "/spec/ephemeralContainers".to_owned(),
            json!([{"name": "e", "image": "i"}]),
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
        ),
    ];
    for (pointer, value, want) in cases {
        check(&[(&pointer, value, want)]);
    }
}

#[test]
fn variables_come_from_one_place() {
    let env = "/spec/containers/0/env";
    let from = |source: Value| json!([{"name": "A", "valueFrom": source}]);
    check(&[
        (env, json!([{"name": "", "value": "x"}]), "spec.containers[0].env[0].name: Required value"),
        (env, json!([{"name": "1.-A", "value": "x"}]), ""),
        (
            env,
            json!([{"name": "A=B"}]),
            "spec.containers[0].env[0].name: Invalid value: \"A=B\": a valid environment variable name must consist only \
             of printable ASCII characters other than '='",
        ),
        (
            env,
            from(json!({})),
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, \
             `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ),
        (env, from(json!({"fieldRef": {"fieldPath": "metadata.labels['a.b/c']"}})), ""),
        (
            env,
            from(json!({"fieldRef": {"fieldPath": "spec.x"}})),
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.x\": error converting \
             fieldPath: field label not supported: spec.x",
        ),
        (
            env,
            from(json!({"fieldRef": {"fieldPath": "status.phase"}})),
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"status.phase\": supported \
             values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \
             \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
        ),
        (env, from(json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}})), ""),
        (
            env,
            from(json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "10m"}})),
            "spec.containers[0].env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's \
             values 1m and 1 are supported with the cpu resource",
        ),
        (
            env,
            from(json!({"configMapKeyRef": {"name": "m", "key": ""}})),
            "spec.containers[0].env[0].valueFrom.configMapKeyRef.key: Required value",
        ),
        (
            env,
            from(json!({"secretKeyRef": {"name": "m", "key": "a/b"}})),
            "spec.containers[0].env[0].valueFrom.secretKeyRef.key: Invalid value: \"a/b\": a valid config key must \
             consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex \
             used for validation is '[-._a-zA-Z0-9]+')",
        ),
        (
            env,
            json!([{"name": "A", "value": "x", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]),
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
        ),
        (
            "/spec/containers/0/envFrom",
            json!([{}]),
            "spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
        ),
        (
            env,
            from(json!({"fileKeyRef": {"key": "A", "volumeName": "w", "path": "p"}})),
            "spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName: Not found: \"w\"",
        ),
    ]);
}

#[test]
fn mounts_are_of_volumes() {
    let mounts = "/spec/containers/0/volumeMounts";
    let mount = |more: Value| {
        let mut mount = json!({"name": "v", "mountPath": "/a"});
        mount.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([mount])
    };
    check(&[
        (mounts, mount(json!({})), ""),
        (mounts, mount(json!({"name": "w"})), "spec.containers[0].volumeMounts[0].name: Not found: \"w\""),
        (
            mounts,
            mount(json!({"mountPath": ""})),
            "spec.containers[0].volumeMounts[0].mountPath: Required value",
        ),
        (
            mounts,
            json!([{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/a"}]),
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
        ),
        (
            mounts,
            mount(json!({"subPath": "../b"})),
            "spec.containers[0].volumeMounts.subPath: Invalid value: \"../b\": must not contain '..'",
        ),
        (
            mounts,
            mount(json!({"subPathExpr": "/b"})),
            "spec.containers[0].volumeMounts.subPathExpr: Invalid value: \"/b\": must be a relative path",
        ),
        (
            mounts,
            mount(json!({"subPath": "a", "subPathExpr": "b"})),
            "spec.containers[0].volumeMounts[0].subPathExpr: Invalid value: \"b\": subPathExpr and subPath are mutually \
             exclusive",
        ),
        (
            mounts,
            mount(json!({"mountPropagation": "Bidirectional"})),
            "spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available \
             only to privileged containers",
        ),
        (
            mounts,
            mount(json!({"recursiveReadOnly": "Enabled"})),
            "spec.containers[0].volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
        ),
        (
            "/spec/containers/0/volumeDevices",
            json!([{"name": "v", "devicePath": "/d"}]),
            "spec.containers[0].volumeDevices[0].name: Invalid value: \"v\": can only use volume source type of \
             PersistentVolumeClaim or Ephemeral for block mode",
        ),
    ]);
}

#[test]
fn probes_and_hooks_do_one_thing() {
    let probe = "/spec/containers/0/livenessProbe";
    let hooks = "/spec/containers/0/lifecycle";
    check(&[
        (probe, json!({}), "spec.containers[0].livenessProbe: Required value: must specify a handler type"),
        (
            probe,
            json!({"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}}),
            "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
        ),
        (
            probe,
            json!({"httpGet": {"port": "x--y"}}),
            "spec.containers[0].livenessProbe.httpGet.port: Invalid value: \"x--y\": must not contain consecutive hyphens",
        ),
        (
            probe,
            json!({"grpc": {"port": 0}}),
            "spec.containers[0].livenessProbe.grpc.port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            probe,
            json!({"exec": {"command": ["a"]}, "successThreshold": 2}),
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (
            probe,
            json!({"exec": {"command": ["a"]}, "periodSeconds": -1}),
            "spec.containers[0].livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            "/spec/containers/0/readinessProbe",
            json!({"exec": {"command": ["a"]}, "terminationGracePeriodSeconds": 5}),
            "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 5: must not be set for \
             readinessProbes",
        ),
        (hooks, json!({"preStop": {"sleep": {"seconds": 0}}}), ""),
        (
            hooks,
            json!({"preStop": {"sleep": {"seconds": 31}}}),
            "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than \
             terminationGracePeriodSeconds (30)",
        ),
        (
            hooks,
            json!({"postStart": {"httpGet": {"port": 80, "httpHeaders": [{"name": "a b", "value": ""}]}}}),
            "spec.containers[0].lifecycle.postStart.httpGet.httpHeaders: Invalid value: \"a b\": a valid HTTP header must \
             consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is \
             '[-A-Za-z0-9]+')",
        ),
    ]);
}

#[test]
fn requests_are_below_limits() {
    let resources = "/spec/containers/0/resources";
    check(&[
        (resources, json!({"limits": {"cpu": "1", "example.com/gpu": "1"}}), ""),
        (
            resources,
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            resources,
            json!({"limits": {"memory": "-1"}}),
            "spec.containers[0].resources.limits[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
        (
            resources,
            json!({"limits": {"disk": "1"}}),
            "spec.containers[0].resources.limits[disk]: Invalid value: \"disk\": must be a standard resource type or fully \
             qualified",
        ),
        (
            resources,
            json!({"limits": {"pods": "1"}}),
            "spec.containers[0].resources.limits[pods]: Invalid value: \"pods\": must be a standard resource for \
             containers",
        ),
        (
            resources,
            json!({"limits": {"example.com/gpu": "1500m"}}),
            "spec.containers[0].resources.limits[example.com/gpu]: Invalid value: \"1500m\": must be an integer",
        ),
        (
            resources,
            json!({"requests": {"example.com/gpu": "1"}}),
            "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
        ),
        (
            resources,
            json!({"limits": {"hugepages-2Mi": "4Mi"}}),
            "spec.containers[0].resources: Forbidden: HugePages require cpu or memory",
        ),
        (
            resources,
            json!({"limits": {"cpu": 1, "hugepages-2Mi": "3Mi"}}),
            "spec.containers[0].resources.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer \
             multiple of hugepages-2Mi",
        ),
        (
            resources,
            json!({"claims": [{"name": "gpu"}]}),
            "spec.containers[0].resources.claims[0]: Not found: \"gpu\": must be one of the names in \
             pod.spec.resourceClaims which is empty",
        ),
        (
            "/spec/resources",
            json!({"requests": {"ephemeral-storage": "1"}}),
            "spec.resources.requests[ephemeral-storage]: Unsupported value: \"ephemeral-storage\": supported values: \
             \"cpu\", \"hugepages-\", \"memory\"",
        ),
        (
            "/spec/overhead",
            json!({"cpu": "-1"}),
            "spec.overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
    ]);
    let both = errors(&[
        ("/spec/containers/0/resources", json!({"requests": {"cpu": "2"}, "limits": {"cpu": "4"}})),
        ("/spec/resources", json!({"requests": {"cpu": "1"}, "limits": {"cpu": "3"}})),
    ]);
    assert_eq!(
        both,
        [
            "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container \
             requests of 2",
            "spec.resources.containers[0][cpu].limits: Invalid value: \"4\": must be less than or equal to pod limits of 3",
        ]
    );
}

#[test]
fn security_contexts_are_consistent() {
    let context = "/spec/containers/0/securityContext";
    check(&[
        (
            context,
            json!({"runAsUser": -1}),
            "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        ),
        (
            context,
            json!({"privileged": true, "allowPrivilegeEscalation": false}),
            "spec.containers[0].securityContext: Invalid value: {\"Capabilities\":null,\"Privileged\":true,\
             \"SELinuxOptions\":null,\"WindowsOptions\":null,\"RunAsUser\":null,\"RunAsGroup\":null,\"RunAsNonRoot\":null,\
             \"ReadOnlyRootFilesystem\":null,\"AllowPrivilegeEscalation\":false,\"ProcMount\":null,\"SeccompProfile\":null,\
             \"AppArmorProfile\":null}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        ),
        (
            context,
            json!({"procMount": "Unmasked"}),
            "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use \
             `Unmasked`",
        ),
        (
            context,
            json!({"seccompProfile": {"type": "Localhost"}}),
            "spec.containers[0].securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp \
             type is Localhost",
        ),
        (
            context,
            json!({"appArmorProfile": {"type": "Odd"}}),
            "spec.containers[0].securityContext.appArmorProfile.type: Unsupported value: \"Odd\": supported values: \
             \"Localhost\", \"RuntimeDefault\", \"Unconfined\"",
        ),
        (
            "/spec/securityContext/sysctls",
            json!([{"name": "foo-", "value": "bar"}]),
            "spec.securityContext.sysctls[0].name: Invalid value: \"foo-\": must have at most 253 characters and match \
             regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
        ),
        ("/spec/securityContext/sysctls", json!([{"name": "kernel.shm_rmid_forced", "value": "1"}]), ""),
        (
            "/spec/securityContext/seLinuxChangePolicy",
            json!("MountOption"),
            "spec.securityContext.seLinuxChangePolicy: Unsupported value: \"MountOption\": supported values: \"Recursive\"",
        ),
        (
            "/spec/os",
            json!({"name": "plan9"}),
            "spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\"",
        ),
    ]);
    let host = errors(&[
        ("/spec/hostNetwork", json!(true)),
        ("/spec/securityContext/sysctls", json!([{"name": "net/ipv4/ip_forward", "value": "1"}])),
    ]);
    assert_eq!(
        host,
        [
            "spec.securityContext.sysctls[0].name: Invalid value: \"net/ipv4/ip_forward\": may not be specified when \
          'hostNetwork' is true"
        ]
    );
    let windows = errors(&[
        ("/spec/os", json!({"name": "windows"})),
        ("/spec/securityContext", json!({"runAsUser": 1, "sysctls": []})),
        ("/spec/hostPID", json!(false)),
    ]);
    assert_eq!(windows, ["spec.securityContext.runAsUser: Forbidden: cannot be set for a windows pod"]);
}

#[test]
fn volumes_have_one_good_source() {
    let volumes = "/spec/volumes";
    let one = |source: Value| {
        let mut volume = json!({"name": "v"});
        volume.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
        json!([volume])
    };
    check(&[
        (volumes, one(json!({})), ""),
        (
            volumes,
            one(json!({"emptyDir": {}, "hostPath": {"path": "/a"}})),
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
        ),
        (volumes, json!([{"name": "v"}, {"name": "v"}]), "spec.volumes[1].name: Duplicate value: \"v\""),
        (volumes, one(json!({"hostPath": {"path": ""}})), "spec.volumes[0].hostPath.path: Required value"),
        (
            volumes,
            one(json!({"hostPath": {"path": "/a", "type": "Odd"}})),
            "spec.volumes[0].hostPath.type: Unsupported value: \"Odd\": supported values: \"\", \"BlockDevice\", \
             \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
        ),
        (volumes, one(json!({"secret": {}})), "spec.volumes[0].secret.secretName: Required value"),
        (
            volumes,
            one(json!({"configMap": {"name": "m", "defaultMode": 512}})),
            "spec.volumes[0].configMap.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both \
             inclusive",
        ),
        (
            volumes,
            one(json!({"configMap": {"name": "m", "items": [{"key": "k", "path": "..data"}]}})),
            "spec.volumes[0].configMap.items[0].path: Invalid value: \"..data\": must not start with '..'",
        ),
        (
            volumes,
            one(json!({"downwardAPI": {"items": [{"path": "a"}]}})),
            "spec.volumes[0].downwardAPI: Required value: one of fieldRef and resourceFieldRef is required",
        ),
        (
            volumes,
            one(json!({"projected": {"sources": [
                {"secret": {"name": "a", "items": [{"key": "k", "path": "p"}]}},
                {"configMap": {"name": "b", "items": [{"key": "k", "path": "p"}]}}]}})),
            "spec.volumes[0].projected: Invalid value: \"b\": conflicting duplicate paths",
        ),
        (
            volumes,
            one(
                json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 5}}]}}),
            ),
            "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 5: may not specify \
             a duration less than 10 minutes",
        ),
        (
            volumes,
            one(json!({"ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"]}}}})),
            "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.resources[storage]: Required value",
        ),
        (volumes, one(json!({"image": {}})), "spec.volumes[0].image.reference: Required value"),
        (
            volumes,
            one(json!({"nfs": {"server": "s", "path": "p"}})),
            "spec.volumes[0].nfs.path: Invalid value: \"p\": must be an absolute path",
        ),
        (
            volumes,
            one(json!({"iscsi": {"targetPortal": "p", "iqn": "x", "lun": 300}})),
            "spec.volumes[0].iscsi.iqn: Invalid value: \"x\": must be valid format starting with iqn, eui, or naa",
        ),
        (
            volumes,
            one(json!({"csi": {"driver": "A_"}})),
            "spec.volumes[0].csi.driver: Invalid value: \"A_\": a lowercase RFC 1123 subdomain must consist of lower case \
             alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. \
             'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        ),
    ]);
}

#[test]
fn scheduling_has_rules() {
    let affinity =
        |kind: &str, term: Value| json!({kind: {"requiredDuringSchedulingIgnoredDuringExecution": term}});
    check(&[
        (
            "/spec/affinity",
            affinity("nodeAffinity", json!({"nodeSelectorTerms": []})),
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: \
             must have at least one node selector term",
        ),
        (
            "/spec/affinity",
            affinity(
                "nodeAffinity",
                json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Gt"}]}]}),
            ),
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]\
             .matchExpressions[0].values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'",
        ),
        (
            "/spec/affinity",
            affinity("podAffinity", json!([{"labelSelector": {}}])),
            "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can \
             not be empty",
        ),
        (
            "/spec/tolerations",
            json!([{"operator": "Equal", "value": "x"}]),
            "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which \
             means \"match all values and all keys\"",
        ),
        (
            "/spec/tolerations",
            json!([{"key": "a", "effect": "NoSchedule", "tolerationSeconds": 1}]),
            "spec.tolerations[0].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when \
             `tolerationSeconds` is set",
        ),
        (
            "/spec/topologySpreadConstraints",
            json!([{"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}]),
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
        ),
        (
            "/spec/topologySpreadConstraints",
            json!([{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "ScheduleAnyway", "minDomains": 2}]),
            "spec.topologySpreadConstraints[0].minDomains: Invalid value: 2: can only use minDomains if \
             whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway",
        ),
        (
            "/spec/schedulingGates",
            json!([{"name": "a"}, {"name": "a"}]),
            "spec.schedulingGates[1]: Duplicate value: \"a\"",
        ),
        (
            "/spec/priorityClassName",
            json!("a/b"),
            "spec.priorityClassName: Invalid value: \"a/b\": a lowercase RFC 1123 \
             subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an \
             alphanumeric character (e.g. 'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
        ),
        (
            "/spec/activeDeadlineSeconds",
            json!(0),
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
        ),
        (
            "/spec/restartPolicy",
            json!("No"),
            "spec.restartPolicy: Unsupported value: \"No\": supported values: \
             \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            "/spec/dnsPolicy",
            json!("None"),
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
        ),
        (
            "/spec/dnsConfig",
            json!({"nameservers": ["010.0.0.1"]}),
            "spec.dnsConfig.nameservers[0]: Invalid value: \
             \"010.0.0.1\": must not have leading 0s",
        ),
        ("/spec/dnsConfig", json!({"searches": ["_a.b.", "."]}), ""),
        (
            "/spec/hostAliases",
            json!([{"ip": "x"}]),
            "spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP \
             address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
    ]);
}

#[test]
fn a_new_pod_is_pending_and_selects_by_its_own_labels() {
    let (stored, errors) = pods().create(changed(
        &pod(),
        &[
            ("/status", json!({"phase": "Running"})),
            ("/spec/schedulingGates", json!([{"name": "g"}])),
            (
                "/spec/topologySpreadConstraints",
                json!([{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": {}, "matchLabelKeys": ["app", "other"]}]),
            ),
        ],
    ));
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(stored["status"]["phase"], "Pending");
    assert_eq!(stored["status"]["conditions"][0]["reason"], "SchedulingGated");
    assert_eq!(
        stored["spec"]["topologySpreadConstraints"][0]["labelSelector"],
        json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["a"]}]})
    );
    assert_eq!(stored["metadata"]["generation"], 1);
}

fn created() -> Value {
    let (stored, errors) = pods().create(pod());
    assert_eq!(errors, Vec::<String>::new());
    stored
}

fn update(changes: &[(&str, Value)], view: &str) -> (Value, Vec<String>) {
    let old = created();
    pods().update(changed(&old, changes), old, view)
}

#[test]
fn images_and_tolerations_change_and_little_else() {
    let (new, errors) = update(
        &[
            ("/spec/containers/0/image", json!("j")),
            ("/spec/activeDeadlineSeconds", json!(5)),
            ("/spec/tolerations", json!([{"key": "a", "operator": "Exists"}])),
            ("/status/phase", json!("Failed")),
        ],
        "",
    );
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!((&new["metadata"]["generation"], &new["status"]["phase"]), (&json!(2), &json!("Pending")));
    let (same, _) =
        update(&[("/metadata/labels/x", json!("y")), ("/spec/containers/0/tty", json!(false))], "");
    assert_eq!(same["metadata"]["generation"], 1);
    let first = |changes: &[(&str, Value)]| update(changes, "").1.first().cloned().unwrap_or_default();
    let other = first(&[("/spec/hostname", json!("h"))]);
    assert!(
        other.starts_with(
            "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
        ) && other.contains("hostname: null -> \"h\""),
        "{other}"
    );
    let gone = first(&[("/spec/containers", json!([]))]);
    assert_eq!(gone, "spec.containers: Required value");
    let gate = first(&[("/spec/schedulingGates", json!([{"name": "g"}]))]);
    assert_eq!(
        gate,
        "spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'g'"
    );
    let mirror = first(&[("/metadata/annotations", json!({"kubernetes.io/config.mirror": "x"}))]);
    assert!(mirror.contains("must set spec.nodeName if mirror pod annotation is set"), "{mirror}");
}

#[test]
fn gated_pods_are_told_more_narrowly_where_to_run() {
    let (old, _) = pods().create(changed(
        &pod(),
        &[("/spec/schedulingGates", json!([{"name": "g"}])), ("/spec/nodeSelector", json!({"a": "b"}))],
    ));
    let update = |changes: &[(&str, Value)]| pods().update(changed(&old, changes), old.clone(), "").1;
    assert_eq!(update(&[("/spec/nodeSelector/c", json!("d"))]), Vec::<String>::new());
    assert_eq!(
        update(&[("/spec/nodeSelector", json!({"a": "c"}))]),
        [
            "spec.nodeSelector: Invalid value: {\"a\":\"c\"}: only additions to spec.nodeSelector are allowed (no mutations \
          or deletions)"
        ]
    );
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}}});
    assert_eq!(update(&[("/spec/affinity", affinity)]), Vec::<String>::new());
}

#[test]
fn ephemeral_containers_come_through_their_view() {
    let one = json!([{"name": "e", "image": "i:1", "targetContainerName": "c"}]);
    let (new, errors) = update(
        &[
            ("/spec/ephemeralContainers", one),
            ("/spec/hostname", json!("h")),
            ("/metadata/labels", json!({"x": "y"})),
        ],
        "ephemeralcontainers",
    );
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!((&new["spec"]["hostname"], &new["metadata"]["generation"]), (&Value::Null, &json!(2)));
    assert_eq!(new["metadata"]["labels"], json!({"app": "a"}));
    let again = |changes: &[(&str, Value)]| {
        pods().update(changed(&new, changes), new.clone(), "ephemeralcontainers").1
    };
    assert_eq!(
        again(&[("/spec/ephemeralContainers", json!([]))]),
        ["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"e\" may not be removed\n"]
    );
    let bad = json!({"name": "f", "image": "i:1", "ports": [{"containerPort": 1, "protocol": "TCP"}]});
    assert_eq!(
        again(&[("/spec/ephemeralContainers/-", bad)]),
        ["spec.ephemeralContainers[1].ports: Forbidden: cannot be set for an Ephemeral Container"]
    );
}

#[test]
fn a_resize_changes_cpu_and_memory() {
    let (old, _) = pods().create(changed(
        &pod(),
        &[("/spec/containers/0/resources", json!({"requests": {"cpu": "1", "memory": "1Gi"}}))],
    ));
    let resize = |resources: Value| {
        let new =
            changed(&old, &[("/spec/containers/0/resources", resources), ("/spec/hostname", json!("h"))]);
        pods().update(new, old.clone(), "resize")
    };
    let (new, errors) = resize(json!({"requests": {"cpu": "2", "memory": "1Gi"}}));
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!((&new["spec"]["hostname"], &new["metadata"]["generation"]), (&Value::Null, &json!(2)));
    assert_eq!(
        resize(json!({"requests": {"cpu": "2"}})).1,
        ["spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"]
    );
    assert_eq!(
        resize(json!({"requests": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1"}})).1,
        ["spec: Forbidden: only cpu and memory resources are mutable"]
    );
    let class =
        resize(json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}})).1;
    assert!(
        !class.iter().any(|e| e.contains("QOS")),
        "an init container without limits keeps the class: {class:?}"
    );
    let (renamed, _) = (changed(&old, &[("/spec/containers/0/name", json!("z"))]), ());
    assert_eq!(
        pods().update(renamed, old.clone(), "resize").1,
        ["spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize"]
    );
}

#[test]
fn what_has_ended_stays_so() {
    let (old, _) = pods().create(changed(&pod(), &[("/spec/restartPolicy", json!("Never"))]));
    let ended = json!([{"name": "c", "state": {"terminated": {"exitCode": 1}}}]);
    let old =
        changed(&old, &[("/status/containerStatuses", ended), ("/status/observedGeneration", json!(3))]);
    let status = |changes: &[(&str, Value)]| pods().update(changed(&old, changes), old.clone(), "status");
    let (new, errors) =
        status(&[("/spec/hostname", json!("h")), ("/status/observedGeneration", Value::Null)]);
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!((&new["spec"]["hostname"], &new["status"]["observedGeneration"]), (&Value::Null, &json!(3)));
    let cases = [
        (
            "/status/containerStatuses",
            json!([{"name": "c", "state": {"running": {}}}]),
            "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state",
        ),
        (
            "/status/qosClass",
            json!("Guaranteed"),
            "status.qosClass: Invalid value: \"Guaranteed\": field is immutable",
        ),
        (
            "/status/podIPs",
            json!([{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]),
            "status.podIPs: Invalid value: [{\"IP\":\"10.0.0.1\"},{\"IP\":\"10.0.0.2\"}]: may specify no more than one IP \
             for each IP family",
        ),
        (
            "/status/conditions",
            json!([{"type": "a b", "status": "True"}]),
            "status.conditions[0].Type: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', \
             '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or \
             '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        ),
    ];
    for (pointer, value, want) in cases {
        assert_eq!(status(&[(pointer, value)]).1, [want]);
    }
}

#[test]
fn old_mistakes_do_not_keep_a_pod_from_being_updated() {
    let bad = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "z", "labelSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["-"]}]}}]}});
    let with = changed(&pod(), &[("/spec/affinity", bad)]);
    let (old, errors) = pods().create(with);
    assert_eq!(errors.len(), 1, "{errors:?}");
    let (_, errors) = pods().update(changed(&old, &[("/spec/containers/0/image", json!("j"))]), old, "");
    assert_eq!(errors, Vec::<String>::new());
}

#[test]
fn likely_mistakes_are_warned_of() {
    let warned = |changes: &[(&str, Value)]| pods().warnings(changed(&pod(), changes));
    assert_eq!(warned(&[]), Vec::<String>::new());
    let cases = [
        (
            "/spec/nodeSelector",
            json!({"beta.kubernetes.io/os": "linux"}),
            "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
        ),
        (
            "/spec/containers/0/env",
            json!([{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),
            "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
        ),
        (
            "/spec/containers/0/ports",
            json!([{"containerPort": 80}, {"containerPort": 80}]),
            "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
        ),
        (
            "/spec/volumes",
            json!([{"name": "v", "gitRepo": {"repository": "r"}}]),
            "spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+",
        ),
        (
            "/spec/volumes",
            json!([{"name": "v", "configMap": {"name": "m", "items": [{"key": "a", "path": "p"}, {"key": "b", "path": "p/q"}]}}]),
            "volume \"v\" (ConfigMap \"m\"): overlapping paths: \"p/q\" with \"p\"",
        ),
        (
            "/spec/containers/0/resources",
            json!({"limits": {"memory": "100m"}}),
            "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
        ),
    ];
    for (pointer, value, want) in cases {
        let found = warned(&[(pointer, value)]);
        assert!(found.iter().any(|w| w == want), "{want}\n{found:#?}");
    }
}

#[test]
fn pods_are_stored_as_they_were_meant() {
    let stored = |changes: &[(&str, Value)]| {
        let (stored, errors) = pods().create(changed(&pod(), changes));
        assert_eq!(errors, Vec::<String>::new());
        stored
    };
    let short = stored(&[("/spec/terminationGracePeriodSeconds", json!(-1))]);
    assert_eq!(short["spec"]["terminationGracePeriodSeconds"], 1);
    for (changes, account) in [
        (vec![("/spec/serviceAccount", json!("old"))], "old"),
        (vec![("/spec/serviceAccountName", json!("new"))], "new"),
        (vec![("/spec/serviceAccount", json!("old")), ("/spec/serviceAccountName", json!("new"))], "new"),
    ] {
        let changes: Vec<(&str, Value)> =
            [("/spec/serviceAccountName", Value::Null)].into_iter().chain(changes).collect();
        let spec = &stored(&changes)["spec"];
        assert_eq!(
            (&spec["serviceAccountName"], &spec["serviceAccount"]),
            (&json!(account), &json!(account))
        );
    }
    let fine = stored(&[(
        "/spec/containers/0/resources",
        json!({"limits": {"cpu": "1500u"}, "requests": {"cpu": "1n", "memory": "1Gi"}}),
    )]);
    assert_eq!(
        fine["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "2m"}, "requests": {"cpu": "1m", "memory": "1Gi"}})
    );
    let hooks = stored(&[("/spec/containers/0/lifecycle", json!({}))]);
    assert_eq!(hooks["spec"]["containers"][0]["lifecycle"], json!({}), "what is empty is not missing");
}

#[test]
fn fields_of_features_that_are_off_are_dropped() {
    let (stored, errors) = pods().create(changed(
        &pod(),
        &[
            ("/spec/containers/0/lifecycle", json!({"stopSignal": "SIGTERM"})),
            ("/spec/schedulingGroup", json!({})),
        ],
    ));
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(
        (&stored["spec"]["containers"][0]["lifecycle"], &stored["spec"]["schedulingGroup"]),
        (&Value::Null, &Value::Null)
    );
}

#[test]
fn fields_of_features_that_are_on_are_kept_and_looked_at() {
    let kind =
        pods().with(&[Gate::ContainerStopSignals, Gate::GenericWorkload, Gate::DRANodeAllocatableResources]);
    let with = |group: Value| {
        changed(
            &pod(),
            &[
                ("/spec/os", json!({"name": "linux"})),
                ("/spec/containers/0/lifecycle", json!({"stopSignal": "SIGTERM"})),
                ("/spec/schedulingGroup", group),
            ],
        )
    };
    let (stored, errors) = kind.create(with(json!({"podGroupName": "g"})));
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(stored["spec"]["schedulingGroup"], json!({"podGroupName": "g"}));
    assert_eq!(stored["spec"]["containers"][0]["lifecycle"], json!({"stopSignal": "SIGTERM"}));
    assert_eq!(
        kind.errors(with(json!({}))),
        ["spec.schedulingGroup.podGroupName: Invalid value: null: must specify one of: `podGroupName`"]
    );
    let old = changed(&stored, &[("/spec/resourceClaims", json!([{"name": "c", "resourceClaimName": "x"}]))]);
    let told = |claim: &str, resources: Value| {
        let status = json!([{"resourceClaimName": claim, "containers": ["c"], "resources": resources}]);
        let new = changed(&old, &[("/status/nodeAllocatableResourceClaimStatuses", status)]);
        kind.update(new, old.clone(), "status").1
    };
    const AT: &str = "status.nodeAllocatableResourceClaimStatuses[0]";
    assert_eq!(told("x", json!({"cpu": "1"})), Vec::<String>::new());
    for (claim, resources, why) in [
        (
            "y",
            json!({"cpu": "1"}),
            "resourceClaimName: Invalid value: \"y\": no mapping found in pod reference",
        ),
        ("x", json!({}), "resources: Required value: must not be empty"),
        ("x", json!({"cpu": "-1"}), "resources[cpu]: Invalid value: \"-1\": must be non-negative"),
        (
            "x",
            json!({"a.b/c": "1"}),
            "resources[a.b/c]: Invalid value: \"a.b/c\": must be a node allocatable resource name",
        ),
    ] {
        assert_eq!(told(claim, resources), [format!("{AT}.{why}")]);
    }
}
