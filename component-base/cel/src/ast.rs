//! The syntax tree: what the parser builds, macros already expanded into comprehensions.
//!
//! Contract: the abstract syntax of the CEL language definition (`Expr`), without protobuf.

/// Identifies a node within one expression; index into [`Ast::offsets`].
pub(crate) type Id = u32;

/// A parsed expression and where its nodes stand in the source.
#[derive(Clone, Debug)]
pub(crate) struct Ast {
    /// The outermost node.
    pub(crate) root: Expr,
    /// Byte offset of each node by id.
    pub(crate) offsets: Vec<u32>,
}

/// One node.
#[derive(Clone, Debug)]
pub(crate) struct Expr {
    /// Identity; a macro that uses its argument twice repeats the id.
    pub(crate) id: Id,
    /// What it is.
    pub(crate) kind: Kind,
    /// Nodes from here to the deepest leaf.
    pub(crate) depth: u16,
}

/// A constant in the source.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Literal {
    /// `null`.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// `-7`, `0x1F`.
    Int(i64),
    /// `7u`.
    Uint(u64),
    /// `1.5e3`.
    Double(f64),
    /// `'text'`, `r'raw'`, `"""many lines"""`.
    String(String),
    /// `b'bytes'`.
    Bytes(Vec<u8>),
}

/// What a node is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// A constant.
    Literal(Literal),
    /// A name; a leading dot (`.x`) stays part of it.
    Ident(String),
    /// `operand.field`; `test` for `has(operand.field)`.
    Select {
        /// Left of the dot.
        operand: Box<Expr>,
        /// Right of the dot.
        field: String,
        /// Only whether the field is there.
        test: bool,
    },
    /// `function(args)`, `target.function(args)` and every operator.
    Call {
        /// The receiver of a member call.
        target: Option<Box<Expr>>,
        /// The function, for operators as `_+_`.
        function: String,
        /// Arguments without the receiver.
        args: Vec<Expr>,
    },
    /// `[a, ?b]`: elements and whether each is optional.
    List(Vec<(Expr, bool)>),
    /// `{key: value, ?key: value}`.
    Map(Vec<Entry>),
    /// `Name{field: value}`.
    Struct {
        /// The type's name as written.
        name: String,
        /// Fields in order.
        fields: Vec<Field>,
    },
    /// What a macro became.
    Comprehension(Box<Comprehension>),
}

/// One entry of a map literal.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The key.
    pub(crate) key: Expr,
    /// The value.
    pub(crate) value: Expr,
    /// Whether the value is an optional that may be absent.
    pub(crate) optional: bool,
}

/// One field of a struct literal.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    /// Identity, for error positions.
    pub(crate) id: Id,
    /// The field's name.
    pub(crate) name: String,
    /// The value.
    pub(crate) value: Expr,
    /// Whether the value is an optional that may be absent.
    pub(crate) optional: bool,
}

/// A fold over a list or map.
#[derive(Clone, Debug)]
pub(crate) struct Comprehension {
    /// Name of the element (list), key (map) or, with two variables, index or key.
    pub(crate) var: String,
    /// Name of the element or value in a comprehension of two variables.
    pub(crate) var2: Option<String>,
    /// What is iterated.
    pub(crate) range: Expr,
    /// Name of the accumulator.
    pub(crate) accu: String,
    /// The accumulator before the first step.
    pub(crate) init: Expr,
    /// The loop ends when this is false.
    pub(crate) condition: Expr,
    /// The accumulator after a step.
    pub(crate) step: Expr,
    /// The value of the whole.
    pub(crate) result: Expr,
}

/// The accumulator of every macro but `cel.bind`; no source can spell it.
pub(crate) const ACCUMULATOR: &str = "@result";

impl Expr {
    /// The dotted name of a chain of selections that starts at an identifier.
    pub(crate) fn qualified_name(&self) -> Option<String> {
        match &self.kind {
            Kind::Ident(name) => Some(name.clone()),
            Kind::Select { operand, field, test: false } => {
                operand.qualified_name().map(|name| format!("{name}.{field}"))
            }
            _ => None,
        }
    }
}
