use std::{env, fs, path::PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().map(|b| (b as char).to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn plain(value: &Value) -> Vec<u8> {
    let mut writer = write::Writer::new(Order::Sorted);
    writer.value(&Node::from(value), None);
    writer.finish()
}

/// RFC 8949, appendix A: what has a counterpart in JSON is read as that.
#[test]
fn the_examples_of_the_rfc_are_read() {
    for (bytes, want) in [
        ("00", json!(0)),
        ("17", json!(23)),
        ("1818", json!(24)),
        ("1903e8", json!(1000)),
        ("1a000f4240", json!(1_000_000)),
        ("1b000000e8d4a51000", json!(1_000_000_000_000_i64)),
        ("20", json!(-1)),
        ("3903e7", json!(-1000)),
        ("f90000", json!(0.0)),
        ("f98000", json!(-0.0)),
        ("f93c00", json!(1.0)),
        ("fb3ff199999999999a", json!(1.1)),
        ("f93e00", json!(1.5)),
        ("f97bff", json!(65504.0)),
        ("fa47c35000", json!(100_000.0)),
        ("fa7f7fffff", json!(3.402_823_466_385_288_6e38)),
        ("fb7e37e43c8800759c", json!(1.0e300)),
        ("f90001", json!(5.960_464_477_539_063e-8)),
        ("f90400", json!(0.000_061_035_156_25)),
        ("f9c400", json!(-4.0)),
        ("fbc010666666666666", json!(-4.1)),
        ("f4", json!(false)),
        ("f5", json!(true)),
        ("f6", json!(null)),
        ("c074323031332d30332d32315432303a30343a30305a", json!("2013-03-21T20:04:00Z")),
        ("c11a514b67b0", json!("2013-03-21T20:04:00Z")),
        ("c1fb41d452d9ec200000", json!("2013-03-21T20:04:00.5Z")),
        ("d74401020304", json!("01020304")),
        ("d818456449455446", json!("dIETF")),
        ("d82076687474703a2f2f7777772e6578616d706c652e636f6d", json!("http://www.example.com")),
        ("4401020304", json!("\u{1}\u{2}\u{3}\u{4}")),
        ("60", json!("")),
        ("63e6b0b4", json!("水")),
        ("80", json!([])),
        ("8301820203820405", json!([1, [2, 3], [4, 5]])),
        ("a0", json!({})),
        ("a26161016162820203", json!({"a": 1, "b": [2, 3]})),
        ("5f42010243030405ff", json!("\u{1}\u{2}\u{3}\u{4}\u{5}")),
        ("7f657374726561646d696e67ff", json!("streaming")),
        ("9f018202039f0405ffff", json!([1, [2, 3], [4, 5]])),
        ("bf61610161629f0203ffff", json!({"a": 1, "b": [2, 3]})),
        ("bf6346756ef563416d7421ff", json!({"Fun": true, "Amt": -2})),
        // Bytes that are to be base64 are, however deep the tag is.
        ("d6820141ff", json!([1, "/w=="])),
        ("d541ff", json!("_w")),
        ("d9d9f7a14161d9d9f701", json!({"a": 1})),
    ] {
        let got = decode(&hex(bytes)).map(|node| node.to_value());
        assert_eq!(got, Ok(want), "{bytes}");
    }
}

#[test]
fn what_json_has_no_counterpart_of_is_refused() {
    for (bytes, why) in [
        ("", "EOF"),
        ("44010203", "unexpected EOF"),
        ("9bffffffffffffffff00", "unexpected EOF"),
        ("5bffffffffffffffff00", "unexpected EOF"),
        ("a161", "unexpected EOF"),
        ("c2", "unexpected EOF"),
        ("0000", "cbor: 1 bytes of extraneous data starting at index 1"),
        (
            "1bffffffffffffffff",
            "cbor: cannot unmarshal positive integer into Go value of type int64 (18446744073709551615 overflows Go's int64)",
        ),
        (
            "3bffffffffffffffff",
            "cbor: cannot unmarshal negative integer into Go value of type int64 (-18446744073709551616 overflows Go's int64)",
        ),
        ("c249010000000000000000", "cbor: data item of cbor type tag is not accepted by protocol: bignum"),
        (
            "f97c00",
            "cbor: data item of cbor type primitives is not accepted by protocol: floating-point infinity",
        ),
        (
            "fb7ff8000000000000",
            "cbor: data item of cbor type primitives is not accepted by protocol: floating-point NaN",
        ),
        (
            "f7",
            "cbor: data item of cbor type primitives is not accepted by protocol: simple value 23 is not recognized",
        ),
        (
            "f8ff",
            "cbor: data item of cbor type primitives is not accepted by protocol: simple value 255 is not recognized",
        ),
        ("f814", "cbor: invalid simple value 20 for type primitives"),
        ("1c", "cbor: invalid additional information 28 for type positive integer"),
        ("1f", "cbor: invalid additional information 31 for type positive integer"),
        ("ff", "cbor: unexpected \"break\" code"),
        ("bf4161ff", "cbor: unexpected \"break\" code"),
        ("5f6161ff", "cbor: wrong element type UTF-8 text string for indefinite-length byte string"),
        ("5f5fffff", "cbor: indefinite-length byte string chunk is not definite-length"),
        ("61ff", "cbor: invalid UTF-8 string"),
        ("a201020304", "cbor: cannot unmarshal positive integer into Go value of type string"),
        ("a2616101416102", "cbor: found duplicate map key \"a\" at map element index 1"),
        ("c04141", "cbor: tag number 0 must be followed by UTF-8 text string, got byte string"),
        (
            "c16141",
            "cbor: tag number 1 must be followed by integer or floating-point number, got UTF-8 text string",
        ),
        ("c06141", "cbor: cannot set A for time.Time"),
    ] {
        assert_eq!(decode(&hex(bytes)).unwrap_err().to_string(), why, "{bytes}");
    }
}

#[test]
fn nesting_is_bounded() {
    for opening in [&[0x81][..], &[0xa1, 0x41, b'a'], &[0xd8, 0x18], &[0x9f]] {
        let deep = opening.repeat(100_000);
        assert_eq!(decode(&deep), Err(DecodeError::TooDeep));
    }
    // As deep as may be, and JSON again.
    let deepest = [vec![0x81; MAX_DEPTH], vec![0x01]].concat();
    let json = to_json(&deepest).unwrap();
    assert!(serde_json::from_slice::<Value>(&json).is_ok());
}

#[test]
fn items_take_the_fewest_bytes_and_members_have_an_order() {
    for (value, want) in [
        (json!(23), "17"),
        (json!(24), "1818"),
        (json!(256), "190100"),
        (json!(65536), "1a00010000"),
        (json!(4_294_967_296_u64), "1b0000000100000000"),
        (json!(u64::MAX), "1bffffffffffffffff"),
        (json!(-1), "20"),
        (json!(i64::MIN), "3b7fffffffffffffff"),
        (json!(1.0), "f93c00"),
        (json!(-0.0), "f98000"),
        (json!(65504.0), "f97bff"),
        (json!(65505.0), "fa477fe100"),
        (json!(5.960_464_477_539_063e-8), "f90001"),
        (json!(6.097_555_160_522_461e-5), "f903ff"),
        (json!(2.980_232_238_769_531_3e-8), "fa33000000"),
        (json!(1.1), "fb3ff199999999999a"),
        (json!("水"), "43e6b0b4"),
        // The shorter name first, then by bytes.
        (json!({"bb": 1, "b": 2, "aaa": 3, "a": null}), "a44161f6416202426262014361616103"),
    ] {
        assert_eq!(plain(&value), hex(want), "{value}");
    }
}

/// Bytes are bytes where the type says so, and text everywhere else.
#[test]
fn types_say_what_is_bytes() {
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "data": {"k": "/w=="}, "metadata": {"name": "/w=="}});
    let bytes = encode(&Node::from(&secret), Order::Sorted);
    let want = [
        &b"\xd9\xd9\xf7\xa4\x44data\xa1\x41k\xd6\x41\xff\x44kind\x46Secret\x48metadata\xa1\x44name\x44/w=="[..],
        b"\x4aapiVersion\x42v1",
    ];
    assert_eq!(bytes, want.concat());
    assert_eq!(decode(&bytes).unwrap().to_value(), secret);
    // A maximum is a float, though JSON prints it without a point.
    let schema = json!({"type": "integer", "maximum": 5});
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "spec": {"versions": [{"schema": {"openAPIV3Schema": schema}}]}});
    let bytes = encode(&Node::from(&definition), Order::Sorted);
    assert!(has(&bytes, b"maximum\xf9\x45\x00"));
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn lists_and_events_are_items_of_items() {
    let items = [br#"{"data":{"k":"/w=="}}"#.as_slice(), br#"{"metadata":{"name":"b"}}"#];
    let metadata = json!({"resourceVersion": "7"});
    let list = list("v1", "SecretList", &Node::from(&metadata), items.iter(), Order::Sorted).unwrap();
    assert!(has(&list, b"\x41k\xd6\x41\xff"), "an item's bytes are bytes");
    let whole = json!({"apiVersion": "v1", "kind": "SecretList", "metadata": metadata,
        "items": [{"data": {"k": "/w=="}}, {"metadata": {"name": "b"}}]});
    assert_eq!(decode(&list).unwrap().to_value(), whole);
    assert_eq!(list, encode(&Node::from(&whole), Order::Sorted));
    let object = json!({"kind": "Thing"});
    let object_bytes = encode(&Node::from(&object), Order::Sorted);
    for order in [Order::Sorted, Order::Turned(1), Order::Turned(2), Order::Turned(3)] {
        let frame = watch_frame("ADDED", &object_bytes, order);
        assert!(frame.starts_with(&MAGIC) && has(&frame, &object_bytes));
        assert_eq!(decode(&frame).unwrap().to_value(), json!({"type": "ADDED", "object": object}));
    }
}

#[test]
fn turned_orders_differ_and_mean_the_same() {
    let value = json!({"a": 1, "b": 2, "c": {"d": 3, "e": 4, "f": 5}});
    let all: Vec<_> = (0..20).map(|seed| encode(&Node::from(&value), Order::Turned(seed))).collect();
    assert!(all.iter().any(|bytes| *bytes != all[0]));
    for bytes in &all {
        assert_eq!(decode(bytes).unwrap().to_value(), value);
    }
}

/// Upstream's filled objects, one for each kind and version, come back as they were; none without the reference data,
/// which `KEELSON_REFERENCE` names or which stands beside the source tree.
#[test]
fn objects_of_every_kind_come_back() {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference");
    let folder = env::var_os("KEELSON_REFERENCE").map_or_else(beside, PathBuf::from).join("api-golden");
    let Ok(files) = fs::read_dir(&folder) else {
        eprintln!("skipped: no reference data at {}", folder.display());
        return;
    };
    let mut seen = 0;
    for path in files.map(|file| file.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "json"))
    {
        let json = fs::read(&path).unwrap();
        let want: Value = serde_json::from_slice(&json).unwrap();
        for order in [Order::Sorted, Order::Turned(7)] {
            let bytes = from_json(&json, order).unwrap();
            assert!(bytes.starts_with(&MAGIC));
            let got: Value = serde_json::from_slice(&to_json(&bytes).unwrap()).unwrap();
            assert!(same(&got, &want), "{}", path.display());
        }
        seen += 1;
    }
    assert!(seen > 90, "only {seen} kinds");
}

/// Whether two values are the same where 5 and 5.0 are.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_filter("JSON has none", |f| f.is_finite()).prop_map(Value::from),
        any::<f32>().prop_filter("JSON has none", |f| f.is_finite()).prop_map(|f| Value::from(f64::from(f))),
        ".{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(".{0,8}", inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn any_value_comes_back(value in any_json(), seed in any::<u64>()) {
        for order in [Order::Sorted, Order::Turned(seed)] {
            let bytes = encode(&Node::from(&value), order);
            prop_assert_eq!(&decode(&bytes).unwrap().to_value(), &value);
        }
    }

    #[test]
    fn any_bytes_come_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(node) = decode(&bytes) {
            let again = encode(&node, Order::Sorted);
            prop_assert_eq!(decode(&again).unwrap().to_value(), node.to_value());
        }
    }
}
