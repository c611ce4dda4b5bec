//! Whatever is written, compiling and evaluating it ends, and ends in a value or an error.

use cel_engine::{Env, Type, Value};
use proptest::prelude::*;
use serde_json::json;

const WORDS: &[&str] = &[
    "x",
    "n",
    "s",
    "1",
    "-1",
    "0u",
    "1.5",
    "9223372036854775807",
    "-9223372036854775808",
    "'a'",
    "''",
    "b'\\xff'",
    "true",
    "null",
    "[",
    "]",
    "{",
    "}",
    "(",
    ")",
    ".",
    ",",
    ":",
    "?",
    "+",
    "-",
    "*",
    "/",
    "%",
    "!",
    "&&",
    "||",
    "==",
    "!=",
    "<",
    ">=",
    "in",
    "x.a",
    "x.list",
    "has(x.a)",
    ".all(e, ",
    ".map(e, ",
    ".filter(e, ",
    ".exists(i, v, ",
    "e",
    "size(",
    "int(",
    "string(",
    "duration('1h')",
    "timestamp('2020-01-01T00:00:00Z')",
    "optional.of(",
    ".?a",
    "[?0]",
    ".orValue(",
    ".split('')",
    ".replace('', 'aa')",
    ".matches('(a*)*')",
    ".format([n])",
    "'%s%d%x%e%.3f'",
    ".substring(",
    "quantity('1Gi')",
    "ip('::1')",
    "cidr('10.0.0.0/8')",
    "semver('1.2.3')",
    "url('/a')",
    "lists.range(",
    ".flatten()",
    ".sort()",
    ".sum()",
    "sets.contains(",
    "type(",
    "dyn(",
    "é",
    "\\",
    "\"",
    "//",
    "\n",
    "@",
    "$",
];

fn run(source: &str) {
    let env = Env::new()
        .variable("x", Type::Dyn)
        .variable("n", Type::Int)
        .variable("s", Type::String)
        .variable("e", Type::Dyn);
    let Ok(program) = env.compile(source) else { return };
    let x = json!({"a": 1, "list": [3, "b", null, {"c": []}]});
    let variables = [
        ("x", Value::json(&x)),
        ("n", Value::Int(i64::MIN)),
        ("s", Value::str("aé")),
        ("e", Value::Double(f64::NAN)),
    ];
    let done = program.eval_within(&variables, 20_000);
    // One call may go over the limit by what it costs itself; it is not made when that is known before.
    if done.result.is_ok() {
        assert!(done.cost <= 20_000, "{source}: {}", done.cost);
    }
    if let Ok(value) = done.result {
        value.to_json();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn words_in_any_order(words in prop::collection::vec(prop::sample::select(WORDS), 1..24)) {
        run(&words.join(" "));
        run(&words.concat());
    }

    #[test]
    fn any_text(text in "\\PC{0,60}") {
        run(&text);
    }

    #[test]
    fn any_pattern(pattern in "[a-c\\[\\](){}|*+?^$.\\\\0-9:<>=!,PQEdw-]{0,20}", text in "[a-c]{0,10}") {
        run(&format!("'{text}'.matches(r'{pattern}') || '{text}'.find(r'{pattern}') == ''"));
    }

    #[test]
    fn any_arguments(
        number in any::<i64>(),
        other in any::<i64>(),
        text in "[aé%.0-9:/-]{0,12}",
        function in prop::sample::select(&[
            "N + M == 0", "N - M == 0", "N * M == 0", "N / M == 0", "N % M == 0", "-(N) == 0", "uint(N) == 0u",
            "T.substring(N) == ''", "T.substring(N, M) == ''", "T.charAt(N) == ''", "T.indexOf('a', N) == 0",
            "T.lastIndexOf('a', N) == 0", "T.split('a', N) == []", "T.replace('a', 'b', N) == ''", "T.format([N, M]) == ''",
            "[1, 2].slice(N, M) == []", "lists.range(N) == []", "[[1]].flatten(N) == []", "timestamp(N) == timestamp(M)",
            "duration(T) == duration('1s')", "timestamp(T).getHours(T) == 0", "quantity(T).add(N).isLessThan(quantity(T).sub(M))",
            "semver(T, true).major() == N", "ip(T).family() == N", "cidr(T).containsIP(T)", "url(T).getQuery() == {}",
            "int(double(N)) == M", "[N, M].sum() == 0", "[1][N] == M", "string(N) == T", "format.named(T).hasValue()",
            "format.uuid().validate(T).hasValue()", "format.date().validate(T).hasValue()", "T.findAll('a', N) == []",
        ][..]),
    ) {
        run(&function.replace('N', &number.to_string()).replace('M', &other.to_string()).replace('T', &format!("'{text}'")));
    }
}
