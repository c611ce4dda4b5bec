//! The language as its specification and Kubernetes' documentation tell it, each line an expression and its outcome.

use cel_engine::{Env, EvalError, Type, Value};
use serde_json::{Value as Json, json};

fn env() -> Env {
    Env::new().variable("x", Type::Dyn).variable("n", Type::Int).variable("s", Type::String)
}

fn outcome(source: &str) -> Result<Json, String> {
    let program = env().compile(source).map_err(|e| format!("compile: {e}"))?;
    let x = json!({"a": 1, "b": {"c": [1, 2, 3]}, "name": "web-1", "none": null, "list": ["p", "q"]});
    let done = program.eval(&[("x", Value::json(&x)), ("n", Value::Int(4)), ("s", Value::str("héllo"))]);
    done.result
        .map_err(|e| e.to_string())
        .map(|v| v.to_json().unwrap_or_else(|| json!(format!("{}", v.type_of()))))
}

/// Every expression is true.
fn all_true(sources: &[&str]) {
    let wrong: Vec<String> = sources
        .iter()
        .filter_map(|source| match outcome(source) {
            Ok(Json::Bool(true)) => None,
            other => Some(format!("{source} -> {other:?}")),
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Every expression fails at run time with the text.
fn all_fail(cases: &[(&str, &str)]) {
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|(source, text)| match outcome(source) {
            Err(message) if message == *text => None,
            other => Some(format!("{source} -> {other:?}, not {text:?}")),
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn operators_and_literals() {
    all_true(&[
        "1 + 2 * 3 == 7",
        "-7 / 2 == -3 && -7 % 2 == -1 && 7 % -2 == 1",
        "7u / 2u == 3u",
        "1.5 + 1.5 == 3.0",
        "0x1F == 31 && 0xFFu == 255u",
        "-9223372036854775808 < 0",
        "9223372036854775807 > 0",
        "1e3 == 1000.0 && .5 == 0.5 && 1.5E-1 == 0.15",
        "'a' + \"b\" == r'ab'",
        "'\\x41\\u0042\\U00000043\\104' == 'ABCD'",
        "b'\\xff' != b'\\x00' && b'abc' == bytes('abc')",
        "'''a\nb''' == 'a\\nb'",
        "[1, 2] + [3] == [1, 2, 3]",
        "{'a': 1, 'b': 2}.a == 1 && {'a': 1}['a'] == 1",
        "{1: 'x'}[1] == 'x' && dyn({1: 'x'})[1u] == 'x' && dyn({1: 'x'})[dyn(1.0)] == 'x'",
        "1 == 1 && dyn(1) == dyn(1u) && dyn(1) == dyn(1.0) && 1 < 2u && 1.5 > 1 && 2u <= 2.0",
        "dyn(1) != dyn('1')",
        "true || dyn(1/0 == 0)",
        "(1/0 == 0) || true",
        "!((1/0 == 0) && false)",
        "true ? true : 1/0 == 0",
        "!false && !!true && --4 == 4",
        "2 in [1, 2, 3] && !('z' in ['a']) && 'a' in {'a': 1} && !(dyn(1) in {'1': 2})",
        "size('héllo') == 5 && 'héllo'.size() == 5 && size(b'h\\xc3\\xa9') == 3",
        "[].size() == 0 && {'a': 1}.size() == 1",
        "'b' > 'a' && b'b' > b'a' && true > false",
        "type(1) == int && type('') == string && type([]) == list && type({}) == map && type(null) == null_type",
        "type(type(1)) == type && type(1u) == uint && type(1.0) == double && type(b'') == bytes",
        "null == null && dyn(1) != null",
        "x.none == null && has(x.none) && has(x.b.c) && !has(x.z)",
        "x.b.c[1] == 2 && x['b']['c'][2] == 3",
        "// a comment\n true",
        "n == 4 && .n == 4",
        "double('NaN') != double('NaN')",
    ]);
    all_fail(&[
        ("1 / 0 == 0", "division by zero"),
        ("1 % 0 == 0", "modulus by zero"),
        ("9223372036854775807 + 1 > 0", "integer overflow"),
        ("-9223372036854775808 - 1 > 0", "integer overflow"),
        ("0u - 1u > 0u", "unsigned integer overflow"),
        ("9223372036854775807 * 2 > 0", "integer overflow"),
        ("x.z == 1", "no such key: z"),
        ("{'a': 1}['b'] == 1", "no such key: b"),
        ("[1][3] == 1", "index out of bounds: 3"),
        ("x.a.b == 1", "no such overload"),
        ("dyn('a') + dyn(1) == dyn(2)", "no such overload"),
        ("x.a && true", "no such overload"),
    ]);
}

#[test]
fn macros_fold_lists_and_maps() {
    all_true(&[
        "[1, 2, 3].all(e, e > 0) && ![1, 2].all(e, e > 1)",
        "[1, 2, 3].exists(e, e == 3) && ![].exists(e, e == 3)",
        "[0, 1].exists(e, 1 / e == 1)",
        "![0, 1].all(e, 1 / e == 0)",
        "[1, 2, 3].exists_one(e, e > 2) && !([1, 2, 3].exists_one(e, e > 1))",
        "[1, 2, 3].map(e, e * 2) == [2, 4, 6]",
        "[1, 2, 3].map(e, e > 1, e * 2) == [4, 6]",
        "[1, 2, 3].filter(e, e % 2 == 1) == [1, 3]",
        "{'a': 1, 'b': 2}.all(k, k in ['a', 'b'])",
        "{'a': 1, 'b': 2}.map(k, k).size() == 2",
        "[[1], [2, 3]].map(l, l.map(e, e + 1)) == [[2], [3, 4]]",
        "[1, 2].all(e, [1, 2].exists(e, e == 2))",
        "[5, 6].all(i, v, v == i + 5)",
        "{'a': 1}.exists(k, v, k == 'a' && v == 1)",
        "[1, 2, 3].transformList(i, v, i * v) == [0, 2, 6]",
        "[1, 2, 3].transformList(i, v, i > 0, v) == [2, 3]",
        "{'a': 1}.transformMap(k, v, v + 1) == {'a': 2}",
        "{'a': 'b'}.transformMapEntry(k, v, {v: k}) == {'b': 'a'}",
        "[1, 2, 3].existsOne(i, v, v == 2)",
    ]);
    all_fail(&[
        ("[0].exists(e, 1 / e == 1)", "division by zero"),
        ("[0].map(e, 1 / e) == []", "division by zero"),
    ]);
}

#[test]
fn conversions_and_times() {
    all_true(&[
        "int('12') == 12 && int(2.9) == 2 && int(3u) == 3 && uint('4') == 4u && double('1.5') == 1.5",
        "string(12) == '12' && string(1.5) == '1.5' && string(true) == 'true' && string(b'hi') == 'hi'",
        "bool('true') && bytes('a') == b'a' && dyn(1) == 1",
        "duration('1h30m') == duration('90m') && duration('1h').getMinutes() == 60",
        "duration('1.5s').getMilliseconds() == 1500",
        "timestamp('2023-01-02T03:04:05Z').getFullYear() == 2023",
        "timestamp('2023-01-02T03:04:05Z').getMonth() == 0",
        "timestamp('2023-01-02T03:04:05Z').getDayOfMonth() == 1 && timestamp('2023-01-02T03:04:05Z').getDate() == 2",
        "timestamp('2023-01-02T03:04:05Z').getDayOfWeek() == 1",
        "timestamp('2023-01-02T03:04:05Z').getHours('+02:00') == 5",
        "timestamp('2023-07-02T23:04:05Z').getHours('Europe/Berlin') == 1",
        "timestamp('2023-01-02T03:04:05Z') + duration('1h') == timestamp('2023-01-02T04:04:05Z')",
        "timestamp('2023-01-02T04:00:00Z') - timestamp('2023-01-02T03:00:00Z') == duration('1h')",
        "string(duration('90m')) == '5400s' && string(timestamp('2023-01-02T03:04:05Z')) == '2023-01-02T03:04:05Z'",
        "int(timestamp('1970-01-01T00:01:00Z')) == 60",
    ]);
    all_fail(&[
        ("int('x') == 1", "type conversion error from 'string' to 'int'"),
        ("int(1e30) == 1", "integer overflow"),
        ("uint(-1) == 1u", "unsigned integer overflow"),
    ]);
}

#[test]
fn texts_and_patterns() {
    all_true(&[
        "'hello'.contains('ell') && 'hello'.startsWith('he') && 'hello'.endsWith('lo')",
        "'hello'.matches('^h.*o$') && matches('abc', 'b') && !'x'.matches('[[:digit:]]')",
        "'tacocat'.charAt(3) == 'o' && 'tacocat'.charAt(7) == ''",
        "'hello mellow'.indexOf('ello') == 1 && 'hello mellow'.indexOf('ello', 2) == 7",
        "'hello mellow'.lastIndexOf('ello') == 7 && 'hello mellow'.lastIndexOf('ello', 6) == 1",
        "'hello mellow'.indexOf('jello') == -1 && 'abc'.indexOf('') == 0",
        "['x', 'y'].join() == 'xy' && ['x', 'y'].join('-') == 'x-y' && [].join('-') == ''",
        "'TacoCat'.lowerAscii() == 'tacocat' && 'TacoCat Xii'.upperAscii() == 'TACOCAT XII'",
        "'hello hello'.replace('he', 'we') == 'wello wello' && 'hello hello'.replace('he', 'we', 1) == 'wello hello'",
        "'a-b-c'.split('-') == ['a', 'b', 'c'] && 'a-b-c'.split('-', 2) == ['a', 'b-c'] && 'a-b'.split('-', 0) == []",
        "'tacocat'.substring(4) == 'cat' && 'tacocat'.substring(0, 4) == 'taco' && 'ta©o'.substring(2, 3) == '©'",
        "'  \\ttrim\\n    '.trim() == 'trim'",
        "'%s has %d and %.2f and %x'.format([dyn('x'), 3, 1.234, 255]) == 'x has 3 and 1.23 and ff'",
        "'%s'.format([[dyn(1), 'a', {'k': true}]]) == '[1, a, {k: true}]'",
        "strings.quote('a\"b') == '\"a\\\\\"b\"'",
        "'abc 123'.find('[0-9]+') == '123' && 'abc'.find('z') == ''",
        "'123 abc 456'.findAll('[0-9]+') == ['123', '456'] && '123 abc 456'.findAll('[0-9]+', 1) == ['123']",
        "s == 'héllo' && s.size() == 5",
    ]);
    all_fail(&[
        ("'a'.charAt(2) == ''", "index out of range: 2"),
        ("'abc'.substring(2, 1) == ''", "invalid substring range. start: 2, end: 1"),
    ]);
}

#[test]
fn lists_sets_and_optionals() {
    all_true(&[
        "[1, 2, 2, 3].isSorted() && !['b', 'a'].isSorted()",
        "[1, 3].sum() == 4 && [1.0, 3.0].sum() == 4.0 && [duration('1m'), duration('1s')].sum() == duration('1m1s')",
        "[1, 3].min() == 1 && [1, 3].max() == 3 && ['a', 'b'].max() == 'b'",
        "[1, 2, 2, 3].indexOf(2) == 1 && [1, 2, 2, 3].lastIndexOf(2) == 2 && [1].indexOf(5) == -1",
        "[1, 2, 3, 4].slice(1, 3) == [2, 3] && [[1], [2]].flatten() == [1, 2] && lists.range(3) == [0, 1, 2]",
        "[3, 1, 2].sort() == [1, 2, 3] && [1, 2].reverse() == [2, 1] && [1, 1, 2].distinct() == [1, 2]",
        "['bb', 'a', 'ccc'].sortBy(e, e.size()) == ['a', 'bb', 'ccc']",
        "sets.contains([1, 2, 3], [2]) && sets.equivalent([1, 2], [2, 1, 1]) && sets.intersects([1], [1, 2])",
        "optional.of(1).value() == 1 && !optional.none().hasValue() && optional.none().orValue(3) == 3",
        "optional.of(1).optMap(v, v + 1).value() == 2 && optional.none().or(optional.of(2)).value() == 2",
        "optional.of(1).optFlatMap(v, optional.of(v * 3)) == optional.of(3)",
        "optional.ofNonZeroValue(0).hasValue() == false",
        "x.?b.?c[?1].orValue(0) == 2 && x.?z.?y.orValue('none') == 'none' && x.?z.hasValue() == false",
        "{'a': 1}[?'b'].orValue(5) == 5 && [1][?4].hasValue() == false",
        "[1, ?optional.none(), ?optional.of(2)] == [1, 2]",
        "{?'a': optional.none(), 'b': 1} == {'b': 1}",
        "[1, 2].first().value() == 1 && [1, 2].last().value() == 2",
    ]);
    all_fail(&[
        ("optional.none().value() == 1", "optional.none() dereference"),
        (
            "lists.range(3).slice(2, 1) == []",
            "cannot slice(2, 1), start index must be less than or equal to end index",
        ),
    ]);
}

#[test]
fn libraries_of_kubernetes() {
    all_true(&[
        "quantity('1Gi').isGreaterThan(quantity('1G')) && quantity('500m').add(quantity('500m')) == quantity('1')",
        "isQuantity('1.3Gi') && !isQuantity('1,3') && quantity('50k').asInteger() == 50000 && quantity('-1').sign() == -1",
        "quantity('50k').sub(20) == quantity('49980') && quantity('1.5').isInteger() == false",
        "quantity('50M').compareTo(quantity('50Mi')) == -1 && quantity('1.5').asApproximateFloat() == 1.5",
        "ip('192.168.0.1').family() == 4 && ip('::1').isLoopback() && isIP('::1') && !isIP('1.2.3')",
        "ip.isCanonical('2001:db8::abcd') && !ip.isCanonical('2001:DB8::ABCD')",
        "string(ip('127.0.0.1')) == '127.0.0.1' && ip('0.0.0.0').isUnspecified()",
        "cidr('192.168.0.0/24').containsIP('192.168.0.7') && !cidr('192.168.0.0/24').containsIP(ip('10.0.0.1'))",
        "cidr('192.168.0.0/16').containsCIDR('192.168.10.0/24') && cidr('192.168.0.7/24').masked() == cidr('192.168.0.0/24')",
        "cidr('192.168.0.0/24').prefixLength() == 24 && cidr('::/8').ip().family() == 6 && isCIDR('10.0.0.0/8')",
        "url('https://user@example.com:80/p%20q?a=1&a=2#f').getHost() == 'example.com:80'",
        "url('https://example.com:80/').getPort() == '80' && url('https://[::1]:80/').getHostname() == '::1'",
        "url('https://example.com/a?k=1&k=2').getQuery() == {'k': ['1', '2']} && isURL('/path') && !isURL('path')",
        "url('https://example.com/p%20q').getEscapedPath() == '/p%20q' && url('/path').getScheme() == ''",
        "!format.dns1123Label().validate('my-label').hasValue()",
        "format.dns1123Label().validate('My_label').hasValue()",
        "format.named('uuid').hasValue() && !format.named('nothing').hasValue()",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('1.0.0-rc.1').isLessThan(semver('1.0.0'))",
        "isSemver('v1.0', true) && !isSemver('v1.0') && semver('v1.0', true).major() == 1",
    ]);
}

#[test]
fn some_functions_are_for_some_expressions() {
    let all = env().with_function("jsonpatch.escapeKey").with_function("includes");
    let run = |source: &str| {
        let x = json!({"few": ["a", "b"], "many": vec![1; 49], "one": 7});
        let program = all.compile(source).unwrap_or_else(|e| panic!("{source}: {e}"));
        program.eval(&[("x", Value::json(&x))]).result.map_err(|e| e.to_string()).map(|v| v.to_json())
    };
    for (source, outcome) in [
        ("jsonpatch.escapeKey('a/b~c') == 'a~1b~0c'", Ok(true)),
        (
            "x.few.includes('b') && !x.few.includes('c') && x.one.includes(7) && !x.one.includes('7')",
            Ok(true),
        ),
        // What is found early is found, whatever follows.
        ("x.many.includes(1)", Ok(true)),
        ("x.many.includes(2)", Err("'includes' function cannot be applied to lists longer than 48 values")),
    ] {
        assert_eq!(run(source), outcome.map(|b| Some(json!(b))).map_err(str::to_owned), "{source}");
        assert!(outcome_of_plain(source).contains("undeclared reference to"), "{source}");
    }
    assert_eq!(all.check("x.few.includes('b')").unwrap().1.max, all.check("x.few").unwrap().1.max + 48);
}

fn outcome_of_plain(source: &str) -> String {
    env().compile(source).map_or_else(|e| e.to_string(), |_| "compiles".to_owned())
}

#[test]
fn what_does_not_compile_is_told_where() {
    let cases = [
        ("1 + 'a'", "1:3: found no matching overload for '_+_' applied to '(int, string)'"),
        ("y == 1", "1:1: undeclared reference to 'y' (in container '')"),
        ("n.foo == 1", "1:2: type 'int' does not support field selection"),
        ("nope(1)", "1:5: undeclared reference to 'nope' (in container '')"),
        ("s.nope()", "1:7: undeclared reference to 'nope' (in container '')"),
        ("[1, 'a']", "1:5: expected type 'int' but found 'string'"),
        (
            "1 +",
            "1:4: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}",
        ),
        ("n n", "1:3: Syntax error: extraneous input 'n' expecting <EOF>"),
        ("n && true", "1:3: found no matching overload for '_&&_' applied to '(int, bool)'"),
        ("[1].map(n.x, 1)", "1:10: argument must be a simple name"),
        ("has(n)", "1:5: invalid argument to has() macro"),
        ("duration('x') > duration('1s')", "1:10: invalid duration argument"),
        ("'a'.matches('[')", "1:13: invalid matches argument"),
    ];
    for (source, expected) in cases {
        let error = env().compile(source).expect_err(source).to_string();
        let first = error.lines().next().unwrap_or_default();
        assert_eq!(first, format!("ERROR: <input>:{expected}"), "{source}");
    }
    let error = env().compile("s ==\n 'é' + y").expect_err("y is not declared").to_string();
    assert_eq!(
        error,
        "ERROR: <input>:2:8: undeclared reference to 'y' (in container '')\n |  'é' + y\n | ..．....^"
    );
}

#[test]
fn hostile_sources_end_soon() {
    let nested = |open: &str, close: &str, n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
    let doubling = format!("[1]{}", ".map(e, [e, e]).flatten()".repeat(40));
    let texts = format!("'{}'{}", "x".repeat(1000), ".replace('', 'yyyyyyyyyyyyyyyy')".repeat(20));
    for source in [
        nested("(", ")", 100_000),
        nested("[", "]", 100_000),
        nested("-", "", 100_000),
        nested("!", "", 99_000),
        format!("1{}", " + 1".repeat(20_000)),
        format!("x{}", ".a".repeat(20_000)),
        format!("x{}", "[0]".repeat(20_000)),
        format!("optional.of(1){}", ".optMap(v, v)".repeat(60)),
        "x".repeat(200_000),
        format!("'{}'", "(a*)*".repeat(2)),
    ] {
        // Whether it compiles is not the question; that it answers is.
        drop(env().compile(&source));
    }
    for source in [
        doubling,
        texts,
        "lists.range(100000).map(a, lists.range(100000).map(b, a * b)).size()".to_owned(),
        "lists.range(900000).map(a, lists.range(900000)).size()".to_owned(),
        "[1, 2, 3, 4, 5, 6, 7, 8].map(a, lists.range(1000000000)).size()".to_owned(),
        format!("[lists.range(1000)]{}.size()", ".map(l, l + l)".repeat(40)),
    ] {
        match env().compile(&source) {
            Ok(program) => {
                let done = program.eval(&[("n", Value::Int(1))]);
                assert!(done.result.is_err(), "{source}: {:?} for {}", done.result.map(|_| ()), done.cost);
            }
            Err(error) => assert!(!error.issues.is_empty()),
        }
    }
    let program = env().compile("lists.range(100000).all(a, lists.range(10000).all(b, true))").expect("good");
    assert_eq!(program.eval(&[("n", Value::Int(1))]).result.expect_err("too dear"), EvalError::CostLimit);
}
