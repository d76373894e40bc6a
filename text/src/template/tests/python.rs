//! Methods and printing. The expected texts are what Python 3.11 with Jinja 3.1.6 renders.

use super::*;

#[track_caller]
fn check(expression: &str, expected: &str) {
    assert_eq!(render(&format!("{{{{ {expression} }}}}"), hello()).unwrap(), expected, "{expression}");
}

#[test]
fn values_print_as_in_python() {
    check("[1, 2.5, none, true, 'a', \"it's\"]", "[1, 2.5, None, True, 'a', \"it's\"]");
    check("none ~ true ~ 1.5 ~ [1] ~ {'a': 'b'}", "NoneTrue1.5[1]{'a': 'b'}");
    check("1e20", "1e+20");
    check("1.0", "1.0");
    check("0.1 + 0.2", "0.30000000000000004");
    check("('x',)", "('x',)");
    check("undefined_name", "");
}

#[test]
fn slices_and_indexes_are_pythons() {
    check("'abcdef'[1:4] ~ 'abcdef'[-2:] ~ 'abc'[::-1] ~ 'abc'[0] ~ 'abcdef'[::2]", "bcdefcbaaace");
    check("[1, 2, 3, 4][::-1] | list", "[4, 3, 2, 1]");
    check("[1, 2, 3, 4][1:-1] | list", "[2, 3]");
    check("[1, 2, 3, 4][-1]", "4");
    check("messages[::-1][0].content", "Hello");
}

#[test]
fn strings_have_pythons_methods() {
    check("' a b  c '.split()", "['a', 'b', 'c']");
    check("' a b  c '.split(none, 1)", "['a', 'b  c ']");
    check("'a,b,c'.split(',', 1)", "['a', 'b,c']");
    check("'a,b,c'.split(sep=',', maxsplit=1)", "['a', 'b,c']");
    check("'a,b,c'.rsplit(',', 1)", "['a,b', 'c']");
    check("' a b  c '.rsplit(maxsplit=1)", "[' a b', 'c']");
    check("'a-b-c'.partition('-')", "('a', '-', 'b-c')");
    check("'a-b-c'.rpartition('-')", "('a-b', '-', 'c')");
    check("'abc'.rpartition('-')", "('', '', 'abc')");
    check("'<x>'.removeprefix('<').removesuffix('>')", "x");
    check("'héllo'.index('l') ~ 'héllo'.rindex('l') ~ 'héllo'.find('z')", "23-1");
    check("'a\\nb\\r\\nc\\x0bd\\n'.splitlines()", "['a', 'b', 'c', 'd']");
    check("'a\\r\\nb\\rc'.splitlines(true)", "['a\\r\\n', 'b\\r', 'c']");
    check("'ab'.ljust(5, '.') ~ 'ab'.rjust(5, '.') ~ 'ab'.center(5, '.')", "ab......ab..ab.");
    check("'abc'.center(6, '.') ~ '-7'.zfill(4) ~ 'aB'.swapcase()", ".abc..-007Ab");
    check("' x '.strip() ~ 'xxa'.lstrip('x') ~ 'axx'.rstrip('x')", "xaa");
    check("\"it's <a> TITLE\".title()", "It'S <A> Title");
    check("'A title'.title() ~ 'abc'.upper() ~ 'ABC'.lower() ~ 'abc'.capitalize()", "A TitleABCabcAbc");
    check("'abc'.startswith('ab') ~ 'abc'.endswith(('x', 'c'))", "TrueTrue");
    check("'-'.join(['a', 'b']) ~ 'aXbX'.replace('X', '', 1)", "a-babX");
    for wrong in ["'a'.split('')", "'a'.index('b')", "'a'.center(3, '..')", "'a'.nothing()", "[1].append(2)"]
    {
        assert!(render(&format!("{{{{ {wrong} }}}}"), hello()).is_err(), "{wrong}");
    }
}

#[test]
fn lists_and_objects_have_pythons_methods() {
    check("['a', 'b'].index('b') ~ ['a', 'a'].count('a')", "12");
    check("[1, 2].copy()", "[1, 2]");
    check("{'a': 1}.get('b', 2) ~ {'a': 1}.copy()", "2{'a': 1}");
    check("{'items': 1, 'a': 2}.items() | list", "[('items', 1), ('a', 2)]");
    check("{'b': 1, 'a': 2}.keys() | list ~ ({'b': 1}.values() | list)", "['b', 'a'][1]");
}

#[test]
fn filters_give_generators() {
    check("[1, 2, 3] | map('string') | join('-') ~ ([1, 2] | select('odd') | list)", "1-2-3[1]");
    check("messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | first", "Hello");
    check("messages | rejectattr('role') | list | length ~ ([] | map('upper') is iterable)", "0True");
    for wrong in ["[1] | map('string') | tojson", "[1] | select | length"] {
        assert!(render(&format!("{{{{ {wrong} }}}}"), hello()).is_err(), "{wrong}");
    }
    assert!(render("{% for tool in tools %}{% endfor %}", hello()).is_err(), "tools are none");
    assert_eq!(render("{% for tool in nothing %}{% else %}none{% endfor %}", hello()).unwrap(), "none");
}

#[test]
fn indentation_is_jinjas() {
    check("'{\\n' | indent(4, first=true)", "    {\n");
    check("'a\\n\\nb' | indent", "a\n\n    b");
    check("'a\\n\\nb' | indent(2, true, true)", "  a\n  \n  b");
    check("'a\\nb' | indent(width='> ')", "a\n> b");
    check("'' | indent(2, true)", "  ");
}

#[test]
fn tests_are_jinjas() {
    check("['a' is sequence, [1] is sequence, {} is sequence, 1 is sequence]", "[True, True, True, False]");
    check("['a' is iterable, {} is mapping, 'a' is string, none is none]", "[True, True, True, True]");
}

#[test]
fn tojson_takes_every_indentation() {
    let value = "{'a': [1], none: true, 1: {}, false: 'x'}";
    check(&format!("{value} | tojson"), r#"{"a": [1], "null": true, "1": {}, "false": "x"}"#);
    check("[1, [2]] | tojson(indent='\\t')", "[\n\t1,\n\t[\n\t\t2\n\t]\n]");
    check("[1] | tojson(indent=0) ~ ([1] | tojson(indent=-1))", "[\n1\n][\n1\n]");
    check("[1] | tojson(false, 1)", "[\n 1\n]");
}

#[test]
fn line_ends_are_jinjas() {
    assert_eq!(render("a\r\nb\rc\n", hello()).unwrap(), "a\nb\nc");
    assert_eq!(render("{% if true %}\r\nx\r\n{% endif %}\r\n", hello()).unwrap(), "x\n");
}
