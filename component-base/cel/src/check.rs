//! The type checker: gives every node a type and every call its overloads, or says what is wrong.
//!
//! Contract: upstream's checker, including its messages and the order in which it tries overloads.

use std::collections::HashMap;

use crate::{
    ast::{Ast, Comprehension, Expr, Id, Kind, Literal},
    env::Env,
    library::{self, Overload},
    source::Issue,
    types::{Substitution, Type, most_general},
};

/// What a node refers to.
#[derive(Clone, Debug)]
pub(crate) enum Reference {
    /// A variable of the environment, by its name without leading dot.
    Variable(String),
    /// A variable of a comprehension.
    Local(String),
    /// A type as a value.
    Type(Type),
    /// A function's possible overloads.
    Call {
        /// The function's full name.
        function: String,
        /// Those that fit the static types.
        overloads: Vec<&'static Overload>,
        /// Whether the receiver of a member call is only part of the function's name.
        namespaced: bool,
    },
}

/// A checked expression.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    /// The tree.
    pub(crate) ast: Ast,
    /// The type of each node.
    pub(crate) types: HashMap<Id, Type>,
    /// What names and calls refer to.
    pub(crate) references: HashMap<Id, Reference>,
}

impl Checked {
    /// The type of a node.
    pub(crate) fn type_of(&self, expr: &Expr) -> &Type {
        self.types.get(&expr.id).unwrap_or(&Type::Dyn)
    }
}

/// Checks a tree.
pub(crate) fn check(env: &Env, ast: Ast) -> Result<Checked, Vec<Issue>> {
    let mut checker = Checker {
        env,
        ast: &ast,
        types: HashMap::new(),
        references: HashMap::new(),
        substitution: Substitution::default(),
        scopes: Vec::new(),
        issues: Vec::new(),
    };
    checker.expr(&ast.root);
    checker.literals(&ast.root);
    let Checker { mut types, references, substitution, issues, .. } = checker;
    if !issues.is_empty() {
        return Err(issues);
    }
    for t in types.values_mut() {
        *t = substitution.apply(t, true);
    }
    Ok(Checked { ast, types, references })
}

struct Checker<'e> {
    env: &'e Env,
    ast: &'e Ast,
    types: HashMap<Id, Type>,
    references: HashMap<Id, Reference>,
    substitution: Substitution,
    /// Variables of the comprehensions around, innermost last.
    scopes: Vec<(String, Type)>,
    issues: Vec<Issue>,
}

impl Checker<'_> {
    fn report(&mut self, id: Id, message: String) {
        let offset = self.ast.offsets.get(id as usize).map_or(0, |o| *o as usize);
        self.issues.push(Issue { offset, message });
    }

    fn undeclared(&mut self, id: Id, name: &str) -> Type {
        self.report(id, format!("undeclared reference to '{name}' (in container '')"));
        Type::Error
    }

    fn mismatch(&mut self, id: Id, expected: &Type, found: &Type) {
        let expected = self.substitution.apply(expected, true);
        let found = self.substitution.apply(found, true);
        self.report(id, format!("expected type '{expected}' but found '{found}'"));
    }

    fn expr(&mut self, expr: &Expr) -> Type {
        let t = match &expr.kind {
            Kind::Literal(literal) => literal_type(literal),
            Kind::Ident(name) => self.ident(expr.id, name),
            Kind::Select { operand, field, test } => self.select(expr, operand, field, *test),
            Kind::Call { target, function, args } => self.call(expr, target.as_deref(), function, args),
            Kind::List(elements) => self.list(elements),
            Kind::Map(_) => self.map(expr),
            Kind::Struct { .. } => self.structure(expr),
            Kind::Comprehension(fold) => self.fold(fold),
        };
        self.types.insert(expr.id, t.clone());
        t
    }

    fn ident(&mut self, id: Id, name: &str) -> Type {
        match self.resolve(name) {
            Some((t, reference)) => {
                self.references.insert(id, reference);
                t
            }
            None => self.undeclared(id, name),
        }
    }

    /// A name as a local, a variable of the environment or a type.
    fn resolve(&self, name: &str) -> Option<(Type, Reference)> {
        if let Some((local, t)) = self.scopes.iter().rev().find(|(local, _)| local == name) {
            return Some((t.clone(), Reference::Local(local.clone())));
        }
        let name = name.strip_prefix('.').unwrap_or(name);
        if let Some(variable) = self.env.find_variable(name) {
            return Some((variable.cel_type.clone(), Reference::Variable(name.to_owned())));
        }
        let t = self.env.find_type(name)?;
        Some((Type::Type(t.clone().into()), Reference::Type(t)))
    }

    fn select(&mut self, expr: &Expr, operand: &Expr, field: &str, test: bool) -> Type {
        if !test
            && let Some(name) = expr.qualified_name()
            && !self.scopes.iter().any(|(local, _)| name.split('.').next() == Some(local))
            && let Some((t, reference)) = self.resolve(&name)
        {
            self.references.insert(expr.id, reference);
            return t;
        }
        let t = self.field(expr.id, operand, field, false);
        if test { Type::Bool } else { self.substitution.apply(&t, false) }
    }

    fn field(&mut self, id: Id, operand: &Expr, field: &str, optional: bool) -> Type {
        let operand_type = self.expr(operand);
        let operand_type = self.substitution.apply(&operand_type, false);
        let (target, was_optional) = operand_type.unwrap_optional();
        let found = match &target {
            Type::Map(_, value) => (**value).clone(),
            Type::Object(name) => match self.env.field_type(name, field) {
                Some(t) => t,
                None => {
                    self.report(id, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            Type::Param(_) => {
                self.substitution.assign(&Type::Dyn, &target);
                Type::Dyn
            }
            t if t.is_dyn_or_error() => Type::Dyn,
            t => {
                let message = format!("type '{t}' does not support field selection");
                self.report(id, message);
                Type::Dyn
            }
        };
        if optional || was_optional { Type::optional(found) } else { found }
    }

    fn call(&mut self, expr: &Expr, target: Option<&Expr>, function: &str, args: &[Expr]) -> Type {
        if function == "_?._" {
            return self.optional_select(expr, args);
        }
        let mut types: Vec<Type> = args.iter().map(|a| self.expr(a)).collect();
        let Some(target) = target else {
            let name = function.strip_prefix('.').unwrap_or(function);
            return match self.env.find_function(name) {
                Some(overloads) => self.overload(expr.id, name, overloads, &types, false, false),
                None => self.undeclared(expr.id, function),
            };
        };
        if let Some(prefix) = target.qualified_name() {
            let name = format!("{}.{function}", prefix.strip_prefix('.').unwrap_or(&prefix));
            if let Some(overloads) = self.env.find_function(&name) {
                return self.overload(expr.id, &name, overloads, &types, false, true);
            }
        }
        types.insert(0, self.expr(target));
        match self.env.find_function(function) {
            Some(overloads) => self.overload(expr.id, function, overloads, &types, true, false),
            None => self.undeclared(expr.id, function),
        }
    }

    fn optional_select(&mut self, expr: &Expr, args: &[Expr]) -> Type {
        let [operand, field] = args else { return Type::Error };
        let Kind::Literal(Literal::String(name)) = &field.kind else { return Type::Error };
        let t = self.field(expr.id, operand, name, true);
        self.types.insert(field.id, Type::String);
        let overloads = library::lookup("_?._").unwrap_or_default().iter().collect();
        let function = "_?._".to_owned();
        self.references.insert(expr.id, Reference::Call { function, overloads, namespaced: false });
        self.substitution.apply(&t, false)
    }

    fn overload(
        &mut self,
        id: Id,
        function: &str,
        overloads: &'static [Overload],
        args: &[Type],
        member: bool,
        namespaced: bool,
    ) -> Type {
        let mut chosen = Vec::new();
        let mut result: Option<Type> = None;
        for overload in overloads.iter().filter(|o| o.member == member) {
            let (params, returns) = self.instance(overload);
            if !self.substitution.assign_all(args, &params) {
                continue;
            }
            chosen.push(overload);
            let returns = self.substitution.apply(&returns, false);
            result = Some(match result {
                None => returns,
                Some(t) if t == Type::Dyn || t == returns => t,
                Some(_) => Type::Dyn,
            });
        }
        let Some(result) = result else {
            let shown: Vec<String> =
                args.iter().map(|t| self.substitution.apply(t, true).to_string()).collect();
            let shown = match shown.split_first() {
                Some((receiver, rest)) if member => format!("{receiver}.({})", rest.join(", ")),
                _ => format!("({})", shown.join(", ")),
            };
            self.report(id, format!("found no matching overload for '{function}' applied to '{shown}'"));
            return Type::Error;
        };
        let function = function.to_owned();
        self.references.insert(id, Reference::Call { function, overloads: chosen, namespaced });
        result
    }

    /// An overload with type variables of its own.
    fn instance(&mut self, overload: &Overload) -> (Vec<Type>, Type) {
        if overload.type_params.is_empty() {
            return (overload.params.clone(), overload.result.clone());
        }
        let mut own = Substitution::default();
        for param in &overload.type_params {
            let fresh = self.substitution.fresh();
            own.bind(param, fresh);
        }
        let params = overload.params.iter().map(|p| own.apply(p, false)).collect();
        (params, own.apply(&overload.result, false))
    }

    fn element(&mut self, expr: &Expr, optional: bool) -> Type {
        let t = self.expr(expr);
        self.unwrapped(expr.id, t, optional)
    }

    /// The type in an optional where the syntax says that one stands here.
    fn unwrapped(&mut self, id: Id, t: Type, optional: bool) -> Type {
        if !optional {
            return t;
        }
        let t = self.substitution.apply(&t, false);
        let (inner, was_optional) = t.unwrap_optional();
        if !was_optional && t != Type::Dyn {
            self.mismatch(id, &Type::optional(t.clone()), &t);
        }
        inner
    }

    /// The common type of elements; a literal's elements must have one.
    fn join(&mut self, id: Id, previous: Option<Type>, current: Type) -> Type {
        let Some(previous) = previous else { return current };
        if self.substitution.assign(&previous, &current) {
            return most_general(&previous, &current);
        }
        self.mismatch(id, &previous, &current);
        Type::Error
    }

    fn list(&mut self, elements: &[(Expr, bool)]) -> Type {
        let mut joined = None;
        for (element, optional) in elements {
            let t = self.element(element, *optional);
            joined = Some(self.join(element.id, joined, t));
        }
        Type::list(joined.unwrap_or_else(|| self.substitution.fresh()))
    }

    fn map(&mut self, expr: &Expr) -> Type {
        let Kind::Map(entries) = &expr.kind else { return Type::Error };
        let (mut keys, mut values) = (None, None);
        for entry in entries {
            let key = self.expr(&entry.key);
            keys = Some(self.join(entry.key.id, keys, key));
            let value = self.element(&entry.value, entry.optional);
            values = Some(self.join(entry.value.id, values, value));
        }
        let key = keys.unwrap_or_else(|| self.substitution.fresh());
        let value = values.unwrap_or_else(|| self.substitution.fresh());
        Type::map(key, value)
    }

    fn structure(&mut self, expr: &Expr) -> Type {
        let Kind::Struct { name, fields } = &expr.kind else { return Type::Error };
        let name = name.strip_prefix('.').unwrap_or(name);
        if !self.env.constructible(name) {
            if self.env.find_type(name).is_some() {
                self.report(expr.id, format!("'{name}' is not a message type"));
                return Type::Error;
            }
            return self.undeclared(expr.id, name);
        }
        for field in fields {
            let value = self.expr(&field.value);
            let value = self.unwrapped(field.value.id, value, field.optional);
            let value = self.substitution.apply(&value, false);
            let Some(expected) = self.env.field_type(name, &field.name) else {
                self.report(field.id, format!("undefined field '{}'", field.name));
                continue;
            };
            let wrong = match self.env.nested_mismatch(name, &field.name, &value) {
                Some(nested) => Some(nested),
                None => (!self.substitution.assign(&expected, &value)).then(|| expected.to_string()),
            };
            if let Some(expected) = wrong {
                let message = format!(
                    "expected type of field '{}' is '{expected}' but provided type is '{value}'",
                    field.name
                );
                self.report(field.id, message);
            }
        }
        Type::object(name)
    }

    fn fold(&mut self, fold: &Comprehension) -> Type {
        let range = self.expr(&fold.range);
        let accu = self.expr(&fold.init);
        let range = self.substitution.apply(&range, false);
        let (first, second) = match &range {
            Type::List(item) if fold.var2.is_some() => (Type::Int, (**item).clone()),
            Type::List(item) => ((**item).clone(), Type::Error),
            Type::Map(key, value) => ((**key).clone(), (**value).clone()),
            Type::Dyn | Type::Error | Type::Param(_) => {
                self.substitution.assign(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.report(fold.range.id, message);
                (Type::Error, Type::Error)
            }
        };
        let outside = self.scopes.len();
        self.scopes.push((fold.accu.clone(), accu.clone()));
        let inside = self.scopes.len();
        self.scopes.push((fold.var.clone(), first));
        if let Some(var2) = &fold.var2 {
            self.scopes.push((var2.clone(), second));
        }
        let condition = self.expr(&fold.condition);
        self.assert(fold.condition.id, &Type::Bool, &condition);
        let step = self.expr(&fold.step);
        self.assert(fold.step.id, &accu, &step);
        self.scopes.truncate(inside);
        let result = self.expr(&fold.result);
        self.scopes.truncate(outside);
        self.substitution.apply(&result, false)
    }

    fn assert(&mut self, id: Id, expected: &Type, found: &Type) {
        if !self.substitution.assign(expected, found) {
            self.mismatch(id, expected, found);
        }
    }

    /// Literals given to `duration`, `timestamp` and `matches` must be good ones.
    fn literals(&mut self, root: &Expr) {
        let mut open = vec![root];
        while let Some(expr) = open.pop() {
            open.extend(crate::parser::children(&expr.kind));
            let Kind::Call { target, function, args } = &expr.kind else { continue };
            let Some(Kind::Literal(Literal::String(text))) = args.last().map(|a| &a.kind) else { continue };
            let wrong = match (function.as_str(), target.is_some(), args.len()) {
                ("duration", false, 1) => library::time::parse_duration(text).is_none().then_some("duration"),
                ("timestamp", false, 1) => {
                    library::time::parse_timestamp(text).is_none().then_some("timestamp")
                }
                ("matches", true, 1) | ("matches", false, 2) => {
                    library::valid_regex(text).is_err().then_some("matches")
                }
                _ => None,
            };
            if let (Some(what), Some(arg)) = (wrong, args.last()) {
                self.report(arg.id, format!("invalid {what} argument"));
            }
        }
    }
}

fn literal_type(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}
