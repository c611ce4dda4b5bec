//! What an expression may name: variables with their types, the types of objects, the functions.
//!
//! An [`Env`] is built once per kind of expression and shared; [`Env::compile`] parses, checks and estimates.

use std::{collections::HashMap, sync::Arc};

use crate::{
    check,
    cost::{self, CostRange},
    eval::Program,
    library::{self, Overload},
    parser,
    schema::{DeclKind, DeclType},
    source::{CompileError, Issue},
    types::Type,
};

/// A variable of an environment.
#[derive(Clone, Debug)]
pub struct Variable {
    /// Its type.
    pub cel_type: Type,
    /// Its schema, for bounds of sizes.
    pub decl: Option<Arc<DeclType>>,
    /// Whether the activation gives its fields one by one ([`crate::Activation::field`]).
    pub lazy: bool,
}

/// The names an expression may use.
#[derive(Clone, Debug, Default)]
pub struct Env {
    variables: HashMap<String, Variable>,
    objects: HashMap<Arc<str>, Arc<DeclType>>,
    messages: HashMap<Arc<str>, MessageType>,
    bindings: bool,
    functions: Vec<&'static str>,
}

/// A type that expressions construct: `Object.spec{...}`, `JSONPatch{...}`.
#[derive(Clone, Debug, Default)]
pub struct MessageType {
    /// Fields with their types; empty with `open`.
    pub fields: HashMap<String, Type>,
    /// Whether any field of any type goes, nested types taking the name `<type>.<field>`.
    pub open: bool,
}

impl Env {
    /// The functions Kubernetes 1.36 gives to every expression, no variables.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the `cel.bind` macro, which Kubernetes' own fields do not have.
    #[must_use]
    pub fn with_bindings(mut self) -> Self {
        self.bindings = true;
        self
    }

    /// Adds a function that Kubernetes gives to some expressions only.
    #[must_use]
    pub fn with_function(mut self, name: &'static str) -> Self {
        self.functions.push(name);
        self
    }

    /// Declares a variable of a type without schema.
    #[must_use]
    pub fn variable(mut self, name: &str, cel_type: Type) -> Self {
        self.variables.insert(name.to_owned(), Variable { cel_type, decl: None, lazy: false });
        self
    }

    /// Declares a variable by its schema.
    #[must_use]
    pub fn declared(self, name: &str, decl: &Arc<DeclType>) -> Self {
        self.declare(name, decl, false)
    }

    /// Declares an object whose fields the activation gives one by one when asked.
    #[must_use]
    pub fn lazy(self, name: &str, decl: &Arc<DeclType>) -> Self {
        self.declare(name, decl, true)
    }

    /// Declares a variable that holds an optional of a schema's value.
    #[must_use]
    pub fn optional(mut self, name: &str, decl: &Arc<DeclType>) -> Self {
        self.add_objects(decl);
        let cel_type = Type::optional(decl.cel_type());
        self.variables.insert(name.to_owned(), Variable { cel_type, decl: Some(decl.clone()), lazy: false });
        self
    }

    /// Lets expressions construct a type.
    #[must_use]
    pub fn message(mut self, name: &str, message: MessageType) -> Self {
        self.messages.insert(name.into(), message);
        self
    }

    fn declare(mut self, name: &str, decl: &Arc<DeclType>, lazy: bool) -> Self {
        self.add_objects(decl);
        let variable = Variable { cel_type: decl.cel_type(), decl: Some(decl.clone()), lazy };
        self.variables.insert(name.to_owned(), variable);
        self
    }

    fn add_objects(&mut self, decl: &Arc<DeclType>) {
        decl.visit_objects(&mut |name, decl| {
            self.objects.insert(name.into(), decl.clone());
        });
    }

    /// Compiles an expression.
    pub fn compile(&self, source: &str) -> Result<Program, CompileError> {
        let fail = |issues: Vec<Issue>| CompileError::new(source, issues);
        let ast = parser::parse(source, self.bindings).map_err(fail)?;
        let checked = check::check(self, ast).map_err(fail)?;
        let estimate = cost::estimate(self, &checked);
        Ok(Program::plan(self, checked, estimate))
    }

    /// Only the checks, for those who want the type and the estimate but no program.
    pub fn check(&self, source: &str) -> Result<(Type, CostRange), CompileError> {
        let program = self.compile(source)?;
        Ok((program.result_type().clone(), program.estimated_cost()))
    }

    /// The overloads of a function these expressions have.
    pub(crate) fn find_function(&self, name: &str) -> Option<&'static [Overload]> {
        let known = !library::is_special(name) || self.functions.contains(&name);
        library::lookup(name).filter(|_| known)
    }

    pub(crate) fn find_variable(&self, name: &str) -> Option<&Variable> {
        self.variables.get(name)
    }

    /// The type a name stands for as a value.
    pub(crate) fn find_type(&self, name: &str) -> Option<Type> {
        library::named_type(name)
            .or_else(|| self.objects.contains_key(name).then(|| Type::object(name)))
            .or_else(|| self.constructible(name).then(|| Type::object(name)))
    }

    /// Whether `name{...}` makes a value.
    pub(crate) fn constructible(&self, name: &str) -> bool {
        self.messages.contains_key(name) || self.open_root(name)
    }

    /// Whether a name is below an open type: `Object.spec.template`.
    fn open_root(&self, name: &str) -> bool {
        let root = name.split('.').next().unwrap_or_default();
        self.messages.get(root).is_some_and(|m| m.open)
    }

    /// The type of an object's field; `None` where the object has no such field.
    pub(crate) fn field_type(&self, object: &str, field: &str) -> Option<Type> {
        if let Some(decl) = self.objects.get(object) {
            return match &decl.kind {
                DeclKind::Object { fields, .. } => fields.get(field).map(|f| f.decl.cel_type()),
                _ => None,
            };
        }
        if let Some(message) = self.messages.get(object)
            && !message.open
        {
            return message.fields.get(field).cloned();
        }
        self.open_root(object).then_some(Type::Dyn)
    }

    /// Whether a struct literal's nested literal has the type its place says.
    pub(crate) fn nested_mismatch(&self, object: &str, field: &str, value: &Type) -> Option<String> {
        if !self.open_root(object) {
            return None;
        }
        let expected = format!("{object}.{field}");
        match value {
            Type::Object(name) if self.open_root(name) && **name != *expected => Some(expected),
            _ => None,
        }
    }
}
