//! Macros: calls that become comprehensions before types are checked.
//!
//! Contract: the standard macros, those of optional values and the comprehensions of two variables,
//! expanded to the same trees as upstream, because cost is defined on them.

use crate::{
    ast::{ACCUMULATOR, Comprehension, Expr, Kind, Literal},
    parser::Parser,
    source::Issue,
};

/// What became of a call.
pub(crate) enum Expansion {
    /// A macro's tree.
    Macro(Expr),
    /// A macro used wrongly.
    Wrong(Issue),
    /// No macro: an ordinary call of these.
    Call(Option<Expr>, Vec<Expr>),
}

/// Expands a call when a macro has its name, receiver and number of arguments.
pub(crate) fn expand(
    parser: &mut Parser,
    offset: usize,
    target: Option<Expr>,
    function: &str,
    args: Vec<Expr>,
    bindings: bool,
) -> Expansion {
    let Some(target) = target else {
        return match (function, args.len()) {
            ("has", 1) => has(parser, offset, args),
            _ => Expansion::Call(None, args),
        };
    };
    let mut fold = Fold { parser, offset };
    match (function, args.len()) {
        ("bind", 3) if bindings && target.qualified_name().as_deref() == Some("cel") => fold.bind(args),
        ("optMap", 2) => fold.opt_map(target, args, true),
        ("optFlatMap", 2) => fold.opt_map(target, args, false),
        ("all" | "exists" | "exists_one" | "existsOne" | "filter", 2) | ("map", 2 | 3) => {
            fold.one_variable(target, function, args)
        }
        ("sortBy", 2) => fold.sort_by(target, args),
        ("all" | "exists" | "exists_one" | "existsOne", 3)
        | ("transformList" | "transformMap" | "transformMapEntry", 3 | 4) => {
            fold.two_variables(target, function, args)
        }
        _ => Expansion::Call(Some(target), args),
    }
}

/// `has(e.f)`: the selection as a test.
fn has(parser: &Parser, offset: usize, mut args: Vec<Expr>) -> Expansion {
    // The caller counted one argument.
    let arg = args.swap_remove(0);
    match arg.kind {
        Kind::Select { operand, field, test: false } => Expansion::Macro(Expr {
            id: arg.id,
            depth: arg.depth,
            kind: Kind::Select { operand, field, test: true },
        }),
        _ => {
            let offset = parser.offset_of(arg.id).max(offset);
            Expansion::Wrong(Issue { offset, message: "invalid argument to has() macro".to_owned() })
        }
    }
}

/// Builds comprehensions at one place.
struct Fold<'p> {
    parser: &'p mut Parser,
    offset: usize,
}

/// The parts of a fold that differ between macros.
struct Parts {
    init: Expr,
    condition: Expr,
    step: Expr,
    result: Expr,
}

impl Fold<'_> {
    fn literal(&mut self, literal: Literal) -> Expr {
        self.parser.node(self.offset, Kind::Literal(literal))
    }

    fn accu(&mut self) -> Expr {
        self.parser.node(self.offset, Kind::Ident(ACCUMULATOR.to_owned()))
    }

    fn call(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        self.parser.call(self.offset, function, args)
    }

    fn list(&mut self, elements: Vec<Expr>) -> Expr {
        let elements = elements.into_iter().map(|e| (e, false)).collect();
        self.parser.node(self.offset, Kind::List(elements))
    }

    fn variable(&self, arg: &Expr) -> Result<String, Issue> {
        let issue =
            |message: &str| Issue { offset: self.parser.offset_of(arg.id), message: message.to_owned() };
        match &arg.kind {
            Kind::Ident(name) if name == ACCUMULATOR || name == "__result__" => {
                Err(issue("iteration variable overwrites accumulator variable"))
            }
            Kind::Ident(name) if !name.starts_with('.') => Ok(name.clone()),
            _ => Err(issue("argument must be a simple name")),
        }
    }

    fn fold(&mut self, var: String, var2: Option<String>, range: Expr, parts: Parts) -> Expr {
        let Parts { init, condition, step, result } = parts;
        let accu = ACCUMULATOR.to_owned();
        let fold = Comprehension { var, var2, range, accu, init, condition, step, result };
        self.parser.node(self.offset, Kind::Comprehension(Box::new(fold)))
    }

    /// The parts that `all`, `exists` and `exists_one` have whatever the number of variables.
    fn quantifier(&mut self, function: &str, predicate: Expr) -> Option<Parts> {
        let parts = match function {
            "all" => {
                let init = self.literal(Literal::Bool(true));
                let accu = self.accu();
                let condition = self.call("@not_strictly_false", vec![accu]);
                let accu = self.accu();
                let step = self.call("_&&_", vec![accu, predicate]);
                Parts { init, condition, step, result: self.accu() }
            }
            "exists" => {
                let init = self.literal(Literal::Bool(false));
                let accu = self.accu();
                let not = self.call("!_", vec![accu]);
                let condition = self.call("@not_strictly_false", vec![not]);
                let accu = self.accu();
                let step = self.call("_||_", vec![accu, predicate]);
                Parts { init, condition, step, result: self.accu() }
            }
            "exists_one" | "existsOne" => {
                let init = self.literal(Literal::Int(0));
                let condition = self.literal(Literal::Bool(true));
                let (accu, one) = (self.accu(), self.literal(Literal::Int(1)));
                let more = self.call("_+_", vec![accu, one]);
                let accu = self.accu();
                let step = self.call("_?_:_", vec![predicate, more, accu]);
                let (accu, one) = (self.accu(), self.literal(Literal::Int(1)));
                let result = self.call("_==_", vec![accu, one]);
                Parts { init, condition, step, result }
            }
            _ => return None,
        };
        Some(parts)
    }

    /// A fold that collects: `step`, taken only where `filter` holds.
    fn collect(&mut self, init: Expr, filter: Option<Expr>, step: Expr) -> Parts {
        let condition = self.literal(Literal::Bool(true));
        let step = match filter {
            Some(filter) => {
                let accu = self.accu();
                self.call("_?_:_", vec![filter, step, accu])
            }
            None => step,
        };
        Parts { init, condition, step, result: self.accu() }
    }

    fn append(&mut self, element: Expr) -> Expr {
        let (accu, list) = (self.accu(), self.list(vec![element]));
        self.call("_+_", vec![accu, list])
    }

    fn one_variable(&mut self, range: Expr, function: &str, mut args: Vec<Expr>) -> Expansion {
        let variable_node = args.remove(0);
        let var = match self.variable(&variable_node) {
            Ok(var) => var,
            Err(issue) => return Expansion::Wrong(issue),
        };
        // Callers count the arguments: at least one is left, `map` may have a filter before it.
        let last = args.pop().unwrap_or_else(|| variable_node.clone());
        let parts = match function {
            "map" => {
                let (init, step) = (self.list(Vec::new()), self.append(last));
                self.collect(init, args.pop(), step)
            }
            "filter" => {
                let (init, step) = (self.list(Vec::new()), self.append(variable_node));
                self.collect(init, Some(last), step)
            }
            _ => match self.quantifier(function, last) {
                Some(parts) => parts,
                None => return Expansion::Call(Some(range), args),
            },
        };
        Expansion::Macro(self.fold(var, None, range, parts))
    }

    fn two_variables(&mut self, range: Expr, function: &str, mut args: Vec<Expr>) -> Expansion {
        let (first, second) = (args.remove(0), args.remove(0));
        let names = self.variable(&first).and_then(|a| Ok((a, self.variable(&second)?)));
        let (var, var2) = match names {
            Ok((a, b)) if a == b => {
                let message = format!("duplicate variable name: {a}");
                return Expansion::Wrong(Issue { offset: self.parser.offset_of(second.id), message });
            }
            Ok(names) => names,
            Err(issue) => return Expansion::Wrong(issue),
        };
        let last = args.pop().unwrap_or_else(|| second.clone());
        let filter = args.pop();
        let parts = match function {
            "transformList" => {
                let (init, step) = (self.list(Vec::new()), self.append(last));
                self.collect(init, filter, step)
            }
            "transformMap" | "transformMapEntry" => {
                let init = self.parser.node(self.offset, Kind::Map(Vec::new()));
                let accu = self.accu();
                let inserted = match function {
                    "transformMap" => vec![accu, first, last],
                    _ => vec![accu, last],
                };
                let step = self.call("cel.@mapInsert", inserted);
                self.collect(init, filter, step)
            }
            _ => match self.quantifier(function, last) {
                Some(parts) => parts,
                None => return Expansion::Call(Some(range), args),
            },
        };
        Expansion::Macro(self.fold(var, Some(var2), range, parts))
    }

    /// `cel.bind(name, value, result)` as a fold over nothing.
    fn bound(&mut self, name: String, value: Expr, result: Expr) -> Expr {
        let range = self.list(Vec::new());
        let condition = self.literal(Literal::Bool(false));
        let step = self.parser.node(self.offset, Kind::Ident(name.clone()));
        let var = "#unused".to_owned();
        let fold = Comprehension { var, var2: None, range, accu: name, init: value, condition, step, result };
        self.parser.node(self.offset, Kind::Comprehension(Box::new(fold)))
    }

    fn bind(&mut self, mut args: Vec<Expr>) -> Expansion {
        let name = match self.variable(&args[0]) {
            Ok(name) => name,
            Err(issue) => return Expansion::Wrong(issue),
        };
        let result = args.remove(2);
        let value = args.remove(1);
        Expansion::Macro(self.bound(name, value, result))
    }

    /// `list.sortBy(x, key)`: the keys of all items as a list, then a sort by it.
    fn sort_by(&mut self, target: Expr, args: Vec<Expr>) -> Expansion {
        let input = "@__sortBy_input__";
        let name = self.parser.node(self.offset, Kind::Ident(input.to_owned()));
        let keys = match self.one_variable(name.clone(), "map", args) {
            Expansion::Macro(keys) => keys,
            other => return other,
        };
        let function = "@sortByAssociatedKeys".to_owned();
        let call = Kind::Call { target: Some(Box::new(name)), function, args: vec![keys] };
        let call = self.parser.node(self.offset, call);
        Expansion::Macro(self.bound(input.to_owned(), target, call))
    }

    fn opt_map(&mut self, target: Expr, mut args: Vec<Expr>, wrap: bool) -> Expansion {
        let name = match self.variable(&args[0]) {
            Ok(name) => name,
            Err(issue) => return Expansion::Wrong(issue),
        };
        let member = |fold: &mut Self, target: Expr, function: &str| {
            let target = Some(Box::new(target));
            fold.parser
                .node(fold.offset, Kind::Call { target, function: function.to_owned(), args: Vec::new() })
        };
        let has = member(self, target.clone(), "hasValue");
        let value = member(self, target, "value");
        let mut bound = self.bound(name, value, args.remove(1));
        if wrap {
            bound = self.call("optional.of", vec![bound]);
        }
        let none = self.call("optional.none", Vec::new());
        Expansion::Macro(self.call("_?_:_", vec![has, bound, none]))
    }
}
