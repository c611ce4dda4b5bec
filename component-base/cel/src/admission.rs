//! Expressions of admission: what those of policies and webhooks may name, and how they are compiled.
//!
//! Contract: upstream's `admission/plugin/cel`: names, types and messages. The API server evaluates what is compiled
//! here; the controller manager compiles it once more against the types of objects, to warn of what will go wrong.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use crate::{DeclField, DeclKind, DeclType, Env, MessageType, Program, Type, library::authorizer};

/// What an expression may name beside `object`, `oldObject`, `request`, `namespaceObject` and variables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// `params`.
    pub params: bool,
    /// `authorizer` and `authorizer.requestResource`.
    pub authorizer: bool,
    /// `Object{...}` and `JSONPatch{...}`.
    pub patches: bool,
}

/// An expression as written, compiled.
#[derive(Debug)]
pub struct Expression {
    /// The source.
    pub source: String,
    /// The program, or why there is none.
    pub program: Result<Program, String>,
}

/// A variable of a policy: an expression with a name, evaluated when another one asks for it.
#[derive(Debug)]
pub struct Variable {
    /// Its name below `variables`.
    pub name: String,
    /// What it stands for.
    pub expression: Expression,
    /// Depth of its evaluation with the variables it asks for.
    depth: usize,
}

/// Compiles the expressions of one policy or webhook, variables in their order.
#[derive(Debug, Default)]
pub struct Compiler {
    variables: Vec<Variable>,
    types: Vec<(String, Type)>,
    object: Option<Arc<DeclType>>,
    params: Option<Arc<DeclType>>,
}

/// The name of the type of `variables`.
const VARIABLES: &str = "kubernetes.variables";
/// Depth of all trees that may be in evaluation at once, one variable asking for another.
const MAX_DEPTH: usize = 500;

impl Compiler {
    /// Without variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// With the schemas of `object` and `oldObject` and of `params`, where they are known.
    pub fn typed(object: Option<Arc<DeclType>>, params: Option<Arc<DeclType>>) -> Self {
        Self { object, params, ..Self::default() }
    }

    /// Adds a variable, which later expressions may name.
    ///
    /// # Errors
    /// Why it does not compile; others may name it all the same, and fail when they are evaluated.
    pub fn add(&mut self, name: &str, source: &str, names: Names) -> Result<(), String> {
        let expression = self.compile(source, names, &[]);
        let outcome = expression.program.as_ref().map(|_| ()).map_err(Clone::clone);
        let t = expression.program.as_ref().map_or(Type::Dyn, |p| p.result_type().clone());
        let depth = expression.program.as_ref().map_or(0, |p| self.depth(p));
        self.types.retain(|(known, _)| known != name);
        self.types.push((name.to_owned(), t));
        self.variables.push(Variable { name: name.to_owned(), expression, depth });
        outcome
    }

    /// Compiles an expression whose value is of one of the types, or of any where there are none.
    pub fn compile(&self, source: &str, names: Names, types: &[Type]) -> Expression {
        Expression { source: source.to_owned(), program: self.program(source, names, types) }
    }

    /// The variables, for evaluation.
    pub fn into_variables(self) -> Vec<Variable> {
        self.variables
    }

    fn program(&self, source: &str, names: Names, types: &[Type]) -> Result<Program, String> {
        let compiled = self.environment(names).compile(source);
        let program = compiled.map_err(|e| format!("compilation failed: {e}"))?;
        let found = program.result_type();
        if !types.is_empty() && !types.contains(found) {
            let shown: Vec<String> = types.iter().map(type_name).collect();
            let wanted = match shown.as_slice() {
                [one] => format!("must evaluate to {one}"),
                all => format!("must evaluate to one of [{}]", all.join(" ")),
            };
            return Err(format!("{wanted} but got {}", type_name(found)));
        }
        if self.depth(&program) > MAX_DEPTH {
            return Err(format!(
                "compilation failed: expression and its variables nest deeper than {MAX_DEPTH}"
            ));
        }
        Ok(program)
    }

    /// Depth of a program with what it asks for.
    fn depth(&self, program: &Program) -> usize {
        let of = |name: &str| self.variables.iter().rev().find(|v| v.name == name).map_or(0, |v| v.depth);
        usize::from(program.depth()) + program.fields_of("variables").map(of).max().unwrap_or(0)
    }

    fn environment(&self, names: Names) -> Env {
        let declare = |env: Env, name: &str, decl: Option<&Arc<DeclType>>| match decl {
            Some(decl) => env.declared(name, decl),
            None => env.variable(name, Type::Dyn),
        };
        let mut env = Env::new().declared("request", &REQUEST).declared("namespaceObject", &NAMESPACE);
        for name in ["object", "oldObject"] {
            env = declare(env, name, self.object.as_ref());
        }
        if names.params {
            env = declare(env, "params", self.params.as_ref());
        }
        if names.authorizer {
            env = env
                .variable("authorizer", Type::Opaque(authorizer::AUTHORIZER.into()))
                .variable("authorizer.requestResource", Type::Opaque(authorizer::RESOURCE_CHECK.into()));
        }
        if names.patches {
            env = env
                .message("Object", MessageType { open: true, ..MessageType::default() })
                .message("JSONPatch", json_patch())
                .with_function("jsonpatch.escapeKey");
        }
        env.lazy("variables", &self.variables_type())
    }

    fn variables_type(&self) -> Arc<DeclType> {
        let fields = self.types.iter().map(|(name, t)| {
            let decl = Arc::new(DeclType::simple(DeclKind::Opaque(t.clone())));
            (name.clone(), DeclField { json_name: name.clone(), decl })
        });
        let mut decl = DeclType::object(VARIABLES, []);
        decl.kind = DeclKind::Object { name: VARIABLES.into(), fields: fields.collect() };
        Arc::new(decl)
    }
}

/// The type of an operation of a JSON patch.
pub fn json_patch_type() -> Type {
    Type::object("JSONPatch")
}

/// The type of an apply configuration.
pub fn object_type() -> Type {
    Type::object("Object")
}

fn json_patch() -> MessageType {
    let text = ["op", "path", "from"].map(|name| (name.to_owned(), Type::String));
    let mut fields = HashMap::from(text);
    fields.insert("value".to_owned(), Type::Dyn);
    MessageType { fields, open: false }
}

fn type_name(t: &Type) -> String {
    match t {
        Type::Null => "null_type".to_owned(),
        other => other.to_string(),
    }
}

/// The type of `request`.
pub static REQUEST: LazyLock<Arc<DeclType>> = LazyLock::new(|| {
    let kind = |last: &'static str, name: &str| {
        DeclType::object(name, [("group", text()), ("version", text()), (last, text())])
    };
    let gvk = || kind("kind", "kubernetes.GroupVersionKind");
    let gvr = || kind("resource", "kubernetes.GroupVersionResource");
    let user = DeclType::object(
        "kubernetes.UserInfo",
        [
            ("username", text()),
            ("uid", text()),
            ("groups", DeclType::list_of(text())),
            ("extra", DeclType::map_of(DeclType::list_of(text()))),
        ],
    );
    Arc::new(DeclType::object(
        "kubernetes.AdmissionRequest",
        [
            ("kind", gvk()),
            ("resource", gvr()),
            ("subResource", text()),
            ("requestKind", gvk()),
            ("requestResource", gvr()),
            ("requestSubResource", text()),
            ("name", text()),
            ("namespace", text()),
            ("operation", text()),
            ("userInfo", user),
            ("dryRun", DeclType::simple(DeclKind::Bool)),
            ("options", DeclType::any()),
        ],
    ))
});

/// The type of `namespaceObject`: a namespace without references and managed fields.
pub static NAMESPACE: LazyLock<Arc<DeclType>> = LazyLock::new(|| {
    let time = || DeclType::simple(DeclKind::Timestamp);
    let int = || DeclType::simple(DeclKind::Int);
    let texts = || DeclType::list_of(text());
    let condition = DeclType::object(
        "kubernetes.NamespaceCondition",
        [
            ("status", text()),
            ("type", text()),
            ("lastTransitionTime", time()),
            ("message", text()),
            ("reason", text()),
        ],
    );
    let status = DeclType::object(
        "kubernetes.NamespaceStatus",
        [("conditions", DeclType::list_of(condition)), ("phase", text())],
    );
    let metadata = DeclType::object(
        "kubernetes.NamespaceMetadata",
        [
            ("name", text()),
            ("generateName", text()),
            ("namespace", text()),
            ("labels", DeclType::map_of(text())),
            ("annotations", DeclType::map_of(text())),
            ("UID", text()),
            ("creationTimestamp", time()),
            ("deletionGracePeriodSeconds", int()),
            ("deletionTimestamp", time()),
            ("generation", int()),
            ("resourceVersion", text()),
            ("finalizers", texts()),
        ],
    );
    let spec = DeclType::object("kubernetes.NamespaceSpec", [("finalizers", texts())]);
    Arc::new(DeclType::object(
        "kubernetes.Namespace",
        [("metadata", metadata), ("spec", spec), ("status", status)],
    ))
});

fn text() -> DeclType {
    DeclType::simple(DeclKind::String)
}
