//! Expressions that are read rather than evaluated: little languages that borrow the syntax.

use crate::{
    ast::{Expr, Kind, Literal},
    parser,
    source::Issue,
};

/// An expression as it was written.
#[derive(Clone, Debug, PartialEq)]
pub enum Syntax {
    /// `function(args)`, with operators by their names such as `_||_`; of a member call the receiver is left out.
    Call {
        /// The function.
        function: String,
        /// Its arguments.
        args: Vec<Self>,
    },
    /// A name.
    Ident(String),
    /// `operand.field`.
    Select(Box<Self>, String),
    /// A text constant.
    Text(String),
    /// Another constant: the name that Go has for its type.
    Constant(&'static str),
    /// Something else.
    Other(u8),
}

impl Syntax {
    /// Parses one expression.
    ///
    /// # Errors
    /// What is first wrong with it.
    pub fn parse(source: &str) -> Result<Self, Issue> {
        match parser::parse(source, false) {
            Ok(ast) => Ok(Self::of(&ast.root)),
            Err(issues) => Err(issues
                .into_iter()
                .next()
                .unwrap_or(Issue { offset: 0, message: "not an expression".to_owned() })),
        }
    }

    fn of(expr: &Expr) -> Self {
        match &expr.kind {
            Kind::Call { function, args, .. } => {
                Self::Call { function: function.clone(), args: args.iter().map(Self::of).collect() }
            }
            Kind::Ident(name) => Self::Ident(name.clone()),
            Kind::Select { operand, field, .. } => Self::Select(Box::new(Self::of(operand)), field.clone()),
            Kind::Literal(Literal::String(text)) => Self::Text(text.clone()),
            Kind::Literal(other) => Self::Constant(match other {
                Literal::Bool(_) => "bool",
                Literal::Int(_) => "int64",
                Literal::Uint(_) => "uint64",
                Literal::Double(_) => "float64",
                Literal::Bytes(_) => "[]uint8",
                Literal::String(_) => "string",
                Literal::Null => "structpb.NullValue",
            }),
            Kind::Comprehension(_) => Self::Other(2),
            Kind::List(_) => Self::Other(4),
            Kind::Map(_) => Self::Other(6),
            Kind::Struct { .. } => Self::Other(8),
        }
    }

    /// The number that Go's implementation of the language gives what it is.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Call { .. } => 1,
            Self::Ident(_) => 3,
            Self::Text(_) | Self::Constant(_) => 5,
            Self::Select(..) => 7,
            Self::Other(kind) => *kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read_as_they_are_written() {
        let text = |text: &str| Syntax::Text(text.to_owned());
        let call = |function: &str, args| Syntax::Call { function: function.to_owned(), args };
        let path = Syntax::Select(Box::new(Syntax::Ident("a".to_owned())), "b".to_owned());
        let f = call("f", vec![path, text("x")]);
        assert_eq!(Syntax::parse("f(a.b, 'x')").unwrap(), f);
        assert_eq!(
            Syntax::parse(" f( a.b,\"x\" ) || (g()) ").unwrap(),
            call("_||_", vec![f, call("g", vec![])])
        );
        assert_eq!(Syntax::parse("7u").unwrap(), Syntax::Constant("uint64"));
        assert_eq!(Syntax::parse("[1]").unwrap().kind(), 4);
        assert!(Syntax::parse("f(").unwrap_err().message.contains("Syntax error"));
    }
}
