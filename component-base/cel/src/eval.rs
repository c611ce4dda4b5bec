//! Evaluation: a checked tree becomes a program whose names are slots and whose calls are functions; running it
//! counts cost and stops at the limit.
//!
//! Contract: the evaluation rules of the CEL specification (errors absorbed by `&&` and `||`), cost as upstream
//! tracks it.

use std::{fmt, sync::Arc};

use crate::{
    ast::{Comprehension, Expr, Kind, Literal},
    check::{Checked, Reference},
    cost::{self, CostRange},
    env::Env,
    library::{self, Call, Overload, Site},
    types::Type,
    value::{EvalError, List, MadeMap, Map, Message, Value},
};

/// Upstream's limit of one evaluation.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// Upstream's budget of all evaluations for one object or binding.
pub const RUNTIME_COST_BUDGET: u64 = 10_000_000;
/// Upstream's budget of all match conditions of one webhook or binding.
pub const MATCH_CONDITIONS_COST_BUDGET: u64 = 2_500_000;

/// Gives an evaluation its variables.
pub trait Activation<'a> {
    /// A variable's value; `None` when it has none.
    fn variable(&self, name: &str) -> Option<Result<Value<'a>, EvalError>>;

    /// A field of a variable declared as lazy.
    fn field(&self, _variable: &str, _field: &str) -> Option<Result<Value<'a>, EvalError>> {
        None
    }
}

/// Variables by name.
impl<'a> Activation<'a> for [(&str, Value<'a>)] {
    fn variable(&self, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        self.iter().find(|(n, _)| *n == name).map(|(_, v)| Ok(v.clone()))
    }
}

impl<'a, const N: usize> Activation<'a> for [(&str, Value<'a>); N] {
    fn variable(&self, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        self.as_slice().variable(name)
    }
}

/// What an evaluation came to.
#[derive(Clone, Debug)]
pub struct Evaluation<'a> {
    /// The value, or why there is none.
    pub result: Result<Value<'a>, EvalError>,
    /// What it cost, also when it failed.
    pub cost: u64,
}

/// A compiled expression.
pub struct Program {
    root: Node,
    slots: usize,
    result_type: Type,
    estimate: CostRange,
    variables: Vec<String>,
    fields: Vec<(String, String)>,
    depth: u16,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").field("type", &self.result_type).field("estimate", &self.estimate).finish()
    }
}

impl Program {
    /// Resolves names and calls of a checked expression.
    pub(crate) fn plan(env: &Env, checked: Checked, estimate: CostRange) -> Program {
        let result_type = checked.type_of(&checked.ast.root).clone();
        let mut planner = Planner {
            env,
            checked: &checked,
            scopes: Vec::new(),
            slots: 0,
            variables: Vec::new(),
            fields: Vec::new(),
            appends: Vec::new(),
        };
        let root = planner.node(&checked.ast.root);
        let Planner { slots, variables, fields, .. } = planner;
        let depth = checked.ast.root.depth;
        Program { root, slots, result_type, estimate, variables, fields, depth }
    }

    /// The type of its value.
    pub fn result_type(&self) -> &Type {
        &self.result_type
    }

    /// What it may cost, by the sizes the schemas allow.
    pub fn estimated_cost(&self) -> CostRange {
        self.estimate
    }

    /// Whether it uses a variable.
    pub fn uses(&self, variable: &str) -> bool {
        self.variables.iter().any(|v| v == variable)
    }

    /// The fields it takes of a variable declared as lazy.
    pub fn fields_of(&self, variable: &str) -> impl Iterator<Item = &str> {
        self.fields.iter().filter(move |(v, _)| v == variable).map(|(_, field)| field.as_str())
    }

    /// Depth of the tree, by which its evaluation takes stack.
    pub fn depth(&self) -> u16 {
        self.depth
    }

    /// Evaluates, at most to [`PER_CALL_LIMIT`].
    pub fn eval<'a>(&self, activation: &(impl Activation<'a> + ?Sized)) -> Evaluation<'a> {
        self.eval_within(activation, PER_CALL_LIMIT)
    }

    /// Evaluates to a limit.
    pub fn eval_within<'a>(&self, activation: &(impl Activation<'a> + ?Sized), limit: u64) -> Evaluation<'a> {
        let mut machine =
            Machine { activation: &activation, slots: vec![Ok(Value::Null); self.slots], cost: 0, limit };
        let result = machine.eval(&self.root);
        Evaluation { result, cost: machine.cost }
    }
}

impl<'a, A: Activation<'a> + ?Sized> Activation<'a> for &A {
    fn variable(&self, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        (**self).variable(name)
    }

    fn field(&self, variable: &str, field: &str) -> Option<Result<Value<'a>, EvalError>> {
        (**self).field(variable, field)
    }
}

/// One step of a program.
enum Node {
    Const(Value<'static>),
    Local(usize),
    Variable(String),
    LazyField {
        variable: String,
        field: String,
        test: bool,
        optional: bool,
    },
    Select {
        operand: Box<Node>,
        field: String,
    },
    Has {
        operand: Box<Node>,
        field: String,
    },
    OptionalSelect {
        operand: Box<Node>,
        field: String,
    },
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Conditional(Box<(Node, Node, Node)>),
    NotStrictlyFalse(Box<Node>),
    Call {
        function: String,
        overloads: Vec<&'static Overload>,
        args: Vec<Node>,
        site: Site,
    },
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    Struct {
        type_name: Arc<str>,
        fields: Vec<(String, Node, bool)>,
    },
    /// `accumulator + [element]` without copying the accumulator.
    Append {
        slot: usize,
        element: Box<Node>,
    },
    Fold(Box<Fold>),
}

struct Fold {
    range: Node,
    var: usize,
    var2: Option<usize>,
    accu: usize,
    init: Node,
    condition: Node,
    step: Node,
    result: Node,
}

// === planning ===

struct Planner<'e> {
    env: &'e Env,
    checked: &'e Checked,
    scopes: Vec<(String, usize)>,
    slots: usize,
    variables: Vec<String>,
    fields: Vec<(String, String)>,
    /// Accumulators that begin as list literals, to which steps may append in place.
    appends: Vec<usize>,
}

impl Planner<'_> {
    fn boxed(&mut self, expr: &Expr) -> Box<Node> {
        Box::new(self.node(expr))
    }

    fn slot(&mut self, name: &str) -> usize {
        self.slots += 1;
        self.scopes.push((name.to_owned(), self.slots - 1));
        self.slots - 1
    }

    fn local(&self, name: &str) -> Option<usize> {
        self.scopes.iter().rev().find(|(n, _)| n == name).map(|(_, slot)| *slot)
    }

    fn variable(&mut self, name: &str) -> Node {
        if !self.variables.iter().any(|v| v == name) {
            self.variables.push(name.to_owned());
        }
        Node::Variable(name.to_owned())
    }

    fn node(&mut self, expr: &Expr) -> Node {
        match self.checked.references.get(&expr.id) {
            Some(Reference::Local(name)) => {
                if let Some(slot) = self.local(name) {
                    return Node::Local(slot);
                }
            }
            Some(Reference::Variable(name)) => return self.variable(&name.clone()),
            Some(Reference::Type(t)) => return Node::Const(Value::Type(t.clone())),
            Some(Reference::Call { .. }) | None => {}
        }
        match &expr.kind {
            Kind::Literal(literal) => Node::Const(constant(literal)),
            // The checker refers every name to something.
            Kind::Ident(name) => Node::Variable(name.clone()),
            Kind::Select { operand, field, test } => self.select(operand, field, *test),
            Kind::Call { target, args, .. } => self.call(expr, target.as_deref(), args),
            Kind::List(elements) => {
                Node::List(elements.iter().map(|(e, optional)| (self.node(e), *optional)).collect())
            }
            Kind::Map(entries) => Node::Map(
                entries.iter().map(|e| (self.node(&e.key), self.node(&e.value), e.optional)).collect(),
            ),
            Kind::Struct { name, fields } => {
                let type_name = name.strip_prefix('.').unwrap_or(name).into();
                let fields =
                    fields.iter().map(|f| (f.name.clone(), self.node(&f.value), f.optional)).collect();
                Node::Struct { type_name, fields }
            }
            Kind::Comprehension(fold) => self.fold(fold),
        }
    }

    /// The variable of a lazy object an operand is.
    fn lazy(&mut self, operand: &Expr) -> Option<String> {
        match self.checked.references.get(&operand.id) {
            Some(Reference::Variable(name)) if self.env.find_variable(name).is_some_and(|v| v.lazy) => {
                let name = name.clone();
                self.variable(&name);
                Some(name)
            }
            _ => None,
        }
    }

    fn select(&mut self, operand: &Expr, field: &str, test: bool) -> Node {
        if let Some(variable) = self.lazy(operand) {
            self.fields.push((variable.clone(), field.to_owned()));
            return Node::LazyField { variable, field: field.to_owned(), test, optional: false };
        }
        let (operand, field) = (self.boxed(operand), field.to_owned());
        if test { Node::Has { operand, field } } else { Node::Select { operand, field } }
    }

    fn call(&mut self, expr: &Expr, target: Option<&Expr>, args: &[Expr]) -> Node {
        let Some(Reference::Call { function, overloads, namespaced }) = self.checked.references.get(&expr.id)
        else {
            return Node::Const(Value::Null);
        };
        let receiver = target.filter(|_| !namespaced);
        match (function.as_str(), args) {
            ("_&&_", [a, b]) => return Node::And(self.boxed(a), self.boxed(b)),
            ("_||_", [a, b]) => return Node::Or(self.boxed(a), self.boxed(b)),
            ("_?_:_", [condition, yes, no]) => {
                return Node::Conditional(Box::new((self.node(condition), self.node(yes), self.node(no))));
            }
            ("@not_strictly_false", [inner]) => return Node::NotStrictlyFalse(self.boxed(inner)),
            ("_?._", [operand, field]) => {
                let Kind::Literal(Literal::String(field)) = &field.kind else {
                    return Node::Const(Value::Null);
                };
                if let Some(variable) = self.lazy(operand) {
                    self.fields.push((variable.clone(), field.clone()));
                    return Node::LazyField { variable, field: field.clone(), test: false, optional: true };
                }
                return Node::OptionalSelect { operand: self.boxed(operand), field: field.clone() };
            }
            ("_+_", [accu, element]) => {
                if let (Some(slot), Kind::List(elements)) = (self.accumulator(accu), &element.kind)
                    && let [(element, false)] = elements.as_slice()
                {
                    return Node::Append { slot, element: self.boxed(element) };
                }
            }
            _ => {}
        }
        let (function, overloads) = (function.clone(), overloads.clone());
        let args: Vec<Node> = receiver.into_iter().chain(args).map(|a| self.node(a)).collect();
        let literal = args.get(1).is_some_and(|a| matches!(a, Node::Const(Value::String(_))));
        let site = Site { constant_pattern: literal, ..Site::default() };
        Node::Call { function, overloads, args, site }
    }

    /// The slot of a list accumulator the expression names.
    fn accumulator(&self, expr: &Expr) -> Option<usize> {
        let Some(Reference::Local(name)) = self.checked.references.get(&expr.id) else { return None };
        self.local(name).filter(|slot| self.appends.contains(slot))
    }

    fn fold(&mut self, fold: &Comprehension) -> Node {
        let range = self.node(&fold.range);
        let init = self.node(&fold.init);
        let outside = self.scopes.len();
        let accu = self.slot(&fold.accu);
        if fold.accu == crate::ast::ACCUMULATOR && matches!(&fold.init.kind, Kind::List(l) if l.is_empty()) {
            self.appends.push(accu);
        }
        let inside = self.scopes.len();
        let var = self.slot(&fold.var);
        let var2 = fold.var2.as_ref().map(|name| self.slot(name));
        let condition = self.node(&fold.condition);
        let step = self.node(&fold.step);
        self.scopes.truncate(inside);
        let result = self.node(&fold.result);
        self.scopes.truncate(outside);
        Node::Fold(Box::new(Fold { range, var, var2, accu, init, condition, step, result }))
    }
}

fn constant(literal: &Literal) -> Value<'static> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(b) => Value::Bool(*b),
        Literal::Int(i) => Value::Int(*i),
        Literal::Uint(u) => Value::Uint(*u),
        Literal::Double(d) => Value::Double(*d),
        Literal::String(s) => Value::text(s),
        Literal::Bytes(b) => Value::Bytes(b.as_slice().into()),
    }
}

// === running ===

type Outcome<'a> = Result<Value<'a>, EvalError>;

struct Machine<'v, 'a> {
    activation: &'v dyn Activation<'a>,
    slots: Vec<Outcome<'a>>,
    cost: u64,
    limit: u64,
}

impl<'a> Machine<'_, 'a> {
    fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit { Err(EvalError::CostLimit) } else { Ok(()) }
    }

    fn eval(&mut self, node: &Node) -> Outcome<'a> {
        match node {
            Node::Const(value) => Ok(value.clone()),
            Node::Local(slot) => {
                self.charge(1)?;
                // Slots are numbered by the planner.
                self.slots.get(*slot).cloned().unwrap_or(Ok(Value::Null))
            }
            Node::Variable(name) => {
                self.charge(1)?;
                let missing = || Err(EvalError::NoSuchAttribute(name.clone()));
                self.activation.variable(name).unwrap_or_else(missing)
            }
            Node::LazyField { variable, field, test, optional } => {
                self.lazy(variable, field, *test, *optional)
            }
            Node::Select { operand, field } => {
                let operand = self.eval(operand)?;
                self.charge(1)?;
                select(&operand, field)
            }
            Node::Has { operand, field } => {
                let operand = self.eval(operand)?;
                Ok(Value::Bool(operand.field(field)?.is_some()))
            }
            Node::OptionalSelect { operand, field } => {
                let operand = self.eval(operand)?;
                self.charge(1)?;
                match operand.field(field) {
                    Ok(found) => Ok(Value::Optional(found.map(Arc::new))),
                    Err(error) => Err(error),
                }
            }
            Node::And(a, b) => self.logic(a, b, false),
            Node::Or(a, b) => self.logic(a, b, true),
            Node::Conditional(parts) => {
                let (condition, yes, no) = parts.as_ref();
                match self.eval(condition)? {
                    Value::Bool(true) => self.eval(yes),
                    Value::Bool(false) => self.eval(no),
                    _ => Err(EvalError::NoSuchOverload),
                }
            }
            Node::NotStrictlyFalse(inner) => {
                let outcome = self.eval(inner);
                self.charge(1)?;
                match outcome {
                    Ok(Value::Bool(b)) => Ok(Value::Bool(b)),
                    Err(error) if error.is_final() => Err(error),
                    _ => Ok(Value::Bool(true)),
                }
            }
            Node::Call { function, overloads, args, site } => self.call(function, overloads, args, site),
            Node::List(elements) => self.list(elements),
            Node::Map(entries) => self.map(entries),
            Node::Struct { type_name, fields } => self.structure(type_name, fields),
            Node::Append { slot, element } => self.append(*slot, element),
            Node::Fold(fold) => self.fold(fold),
        }
    }

    fn lazy(&mut self, variable: &str, field: &str, test: bool, optional: bool) -> Outcome<'a> {
        self.charge(if test { 1 } else { 2 })?;
        match (self.activation.field(variable, field), test, optional) {
            (found, true, _) => Ok(Value::Bool(found.is_some())),
            (found, _, true) => Ok(Value::Optional(found.transpose()?.map(Arc::new))),
            (Some(value), ..) => value,
            (None, ..) => Err(EvalError::NoSuchKey(field.to_owned())),
        }
    }

    /// `&&` (decided by false) and `||` (decided by true): an error on one side counts only if the other does not decide.
    fn logic(&mut self, a: &Node, b: &Node, decides: bool) -> Outcome<'a> {
        let left = self.eval(a);
        match &left {
            Ok(Value::Bool(b)) if *b == decides => return Ok(Value::Bool(decides)),
            Err(error) if error.is_final() => return left,
            _ => {}
        }
        let right = self.eval(b);
        match (&left, &right) {
            (_, Ok(Value::Bool(b))) if *b == decides => Ok(Value::Bool(decides)),
            (_, Err(error)) if error.is_final() => right,
            (Err(_), _) => left,
            (Ok(Value::Bool(_)), Err(_)) => right,
            (Ok(Value::Bool(_)), Ok(Value::Bool(_))) => Ok(Value::Bool(!decides)),
            _ => Err(EvalError::NoSuchOverload),
        }
    }

    fn call(
        &mut self,
        function: &str,
        overloads: &[&'static Overload],
        args: &[Node],
        site: &Site,
    ) -> Outcome<'a> {
        let mut values = Vec::with_capacity(args.len());
        for arg in args {
            values.push(self.eval(arg)?);
        }
        let overload = match overloads.iter().find(|o| o.accepts(&values)) {
            Some(overload) => *overload,
            // A value of type dyn may be of another type than those the checker thought of.
            None => library::lookup(function)
                .and_then(|all| all.iter().find(|o| o.accepts(&values)))
                .ok_or(EvalError::NoSuchOverload)?,
        };
        // What is known of the cost before the work is charged before it.
        let before = cost::before(function, overload.id, &values);
        if self.cost.saturating_add(before) > self.limit {
            return Err(EvalError::CostLimit);
        }
        let result = (overload.eval)(&Call { args: &values, site });
        match result {
            Ok(value) => {
                self.charge(cost::actual(function, overload.id, &values, &value))?;
                Ok(value)
            }
            Err(error) => {
                self.charge(before)?;
                Err(error)
            }
        }
    }

    fn list(&mut self, elements: &[(Node, bool)]) -> Outcome<'a> {
        let mut items = Vec::with_capacity(elements.len());
        for (element, optional) in elements {
            items.extend(self.element(element, *optional)?);
        }
        self.charge(cost::LIST)?;
        Ok(Value::list(items))
    }

    /// The value of an element, unless it is an optional without one.
    fn element(&mut self, node: &Node, optional: bool) -> Result<Option<Value<'a>>, EvalError> {
        match (self.eval(node)?, optional) {
            (Value::Optional(inner), true) => Ok(inner.map(|v| v.as_ref().clone())),
            (_, true) => Err(EvalError::failed("cannot initialize optional element from non-optional value")),
            (value, false) => Ok(Some(value)),
        }
    }

    fn map(&mut self, entries: &[(Node, Node, bool)]) -> Outcome<'a> {
        let mut made = MadeMap::default();
        for (key, value, optional) in entries {
            let key = self.eval(key)?;
            if let Some(value) = self.element(value, *optional)? {
                let shown = format!("Failed with repeated key: {}", key.as_str().unwrap_or_default());
                if !made.insert(key, value)? {
                    return Err(EvalError::failed(shown));
                }
            }
        }
        self.charge(cost::MAP)?;
        Ok(Value::Map(Map::Made(Arc::new(made))))
    }

    fn structure(&mut self, type_name: &Arc<str>, fields: &[(String, Node, bool)]) -> Outcome<'a> {
        let mut set = Vec::with_capacity(fields.len());
        for (name, value, optional) in fields {
            if let Some(value) = self.element(value, *optional)? {
                set.push((name.clone(), value));
            }
        }
        self.charge(cost::OBJECT)?;
        Ok(Value::Object(Arc::new(Message { type_name: type_name.clone(), fields: set })))
    }

    fn append(&mut self, slot: usize, element: &Node) -> Outcome<'a> {
        let element = self.eval(element)?;
        // The accumulator's name, the list of one and the sum.
        self.charge(12)?;
        let Some(place) = self.slots.get_mut(slot) else { return Err(EvalError::NoSuchOverload) };
        // Taken out, so that it is the only owner and grows in place.
        match std::mem::replace(place, Ok(Value::Null)) {
            Ok(Value::List(List::Made(mut items))) => {
                Arc::make_mut(&mut items).push(element);
                Ok(Value::List(List::Made(items)))
            }
            Err(error) => Err(error),
            Ok(_) => Err(EvalError::NoSuchOverload),
        }
    }

    fn fold(&mut self, fold: &Fold) -> Outcome<'a> {
        let range = self.eval(&fold.range)?;
        let init = self.eval(&fold.init)?;
        let outer = [Some(fold.accu), Some(fold.var), fold.var2];
        let saved: Vec<Outcome<'a>> = outer.iter().flatten().map(|slot| self.slots[*slot].clone()).collect();
        self.slots[fold.accu] = Ok(init);
        let outcome = self.steps(fold, &range);
        let outcome = outcome.and_then(|()| self.eval(&fold.result));
        for (slot, value) in outer.iter().flatten().zip(saved) {
            self.slots[*slot] = value;
        }
        outcome
    }

    fn steps(&mut self, fold: &Fold, range: &Value<'a>) -> Result<(), EvalError> {
        match range {
            Value::List(list) => {
                for i in 0..list.len() {
                    let Some(item) = list.get(i) else { break };
                    let pair = match fold.var2 {
                        Some(_) => (Value::Int(i as i64), Some(item?)),
                        None => (item?, None),
                    };
                    if !self.step(fold, pair)? {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                for key in map.keys() {
                    let value = match fold.var2 {
                        Some(_) => Some(map.get(&key)?.ok_or_else(|| EvalError::NoSuchKey(String::new()))?),
                        None => None,
                    };
                    if !self.step(fold, (key, value))? {
                        break;
                    }
                }
            }
            other => {
                let message = format!("got '{}', expected iterable type", other.type_of());
                return Err(EvalError::failed(message));
            }
        }
        Ok(())
    }

    /// One turn; `false` ends the loop. An error in the accumulator stays there for the result or later turns.
    fn step(
        &mut self,
        fold: &Fold,
        (first, second): (Value<'a>, Option<Value<'a>>),
    ) -> Result<bool, EvalError> {
        self.slots[fold.var] = Ok(first);
        if let (Some(slot), Some(value)) = (fold.var2, second) {
            self.slots[slot] = Ok(value);
        }
        match self.eval(&fold.condition)? {
            Value::Bool(true) => {}
            Value::Bool(false) => return Ok(false),
            _ => return Err(EvalError::NoSuchOverload),
        }
        match self.eval(&fold.step) {
            Err(error) if error.is_final() => return Err(error),
            next => self.slots[fold.accu] = next,
        }
        Ok(true)
    }
}

fn select<'a>(operand: &Value<'a>, field: &str) -> Outcome<'a> {
    let found = operand.field(field)?;
    match operand {
        Value::Optional(_) => Ok(Value::Optional(found.map(Arc::new))),
        _ => found.ok_or_else(|| EvalError::NoSuchKey(field.to_owned())),
    }
}
