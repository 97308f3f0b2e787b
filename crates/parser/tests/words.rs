//! Words whose expansion was asked of real Docker: `words.txt`.
#![allow(clippy::unwrap_used, missing_docs)]

use rbuild_parser::Version;
use rbuild_parser::words::{Environment, Lexer};

const ENV: [(&str, &str); 5] = [("x", "val.a.tar"), ("e", ""), ("p", "a*b"), ("u", "éàé"), ("q", "$0")];

#[test]
fn as_docker_expands_them() {
    let mut compared = 0;
    for line in include_str!("words.txt").lines() {
        if line.starts_with('#') {
            continue;
        }
        let mut cells = line.split('\t');
        let word = cells.next().unwrap();
        for (version, expected) in [Version::V28, Version::V20].into_iter().zip(cells) {
            let lexer = Lexer::new('\\').version(version);
            let found = match lexer.process_word(word, &ENV[..]) {
                Ok(found) => found,
                Err(error) => format!("! {error}"),
            };
            assert_eq!(found, expected, "{word} in {version:?}");
            compared += 1;
        }
    }
    assert!(compared > 400, "{compared}");
}

#[test]
fn operators() {
    let env = [("f", "archive.tar.gz"), ("e", ""), ("path", "/usr/local/bin"), ("star", "a*b?c"), ("lines", "a\nb")];
    for (word, expected) in [
        ("$f ${f}", "archive.tar.gz archive.tar.gz"),
        ("${f:-d} ${e:-d} ${n:-d} ${n:-}", "archive.tar.gz d d "),
        ("${f-d} ${e-d} ${n-d}", "archive.tar.gz  d"),
        ("${f:+s} ${e:+s} ${n:+s}", "s  "),
        ("${f+s} ${e+s} ${n+s}", "s s "),
        ("${n:-${f}}x${n:-$e}", "archive.tar.gzx"),
        ("${f?no} ${e?no} ${f:?no}", "archive.tar.gz  archive.tar.gz"),
        ("${f#*.} ${f##*.} ${f%.*} ${f%%.*}", "tar.gz gz archive.tar archive"),
        ("${path##*/} ${path%/*}", "bin /usr/local"),
        ("${path/local/x} ${path//\\//_}", "/usr/x/bin _usr_local_bin"),
        ("${star/\\*/-} ${star#a\\*}", "a-b?c b?c"),
        ("${star//?/x}", "xxxxx"),
        ("${f//a} b/x}", "archive.tar.gz"),
        ("${f#nope} ${f%nope}", "archive.tar.gz archive.tar.gz"),
        ("${lines#*}${lines##*}", "a\nb\nb"),
        ("'$f' \"$e'$e\" \\$f", "$f ' $f"),
        ("$@ $* $1x $", "  x $"),
        ("$f.$path", "archive.tar.gz./usr/local/bin"),
    ] {
        let found = Lexer::new('\\').process_word(word, &env[..]);
        assert_eq!(found.as_deref(), Ok(expected), "{word}");
    }
}

#[test]
fn words_are_cut_after_expansion() {
    let env = [("two", "a b"), ("n", "80")];
    for (word, expected) in [
        ("$two c", &["a", "b", "c"][..]),
        ("\"$two\" c", &["a b", "c"]),
        ("a\\ b c", &["a b", "c"]),
        ("'' a", &["a"]),
        // What stands before a substitution with an operator is lost, as in Docker 28.
        ("8${x:-81} 9${x}5", &["81", "95"]),
    ] {
        let found = Lexer::new('\\').process_words(word, &env[..]).unwrap();
        assert_eq!(found, expected, "{word}");
    }
    let old = Lexer::new('\\').version(Version::V20);
    assert_eq!(old.process_words("8${x:-81}", &()).unwrap(), ["881"]);
}

#[test]
fn variables_are_reported() {
    let lexer = Lexer::new('\\');
    let found = lexer.process_word_with_matches("$a ${b:-$c} '$d'", &[("a", "1")][..]).unwrap();
    assert_eq!(found.matched.iter().collect::<Vec<_>>(), ["a"]);
    assert_eq!(found.unmatched.iter().collect::<Vec<_>>(), ["b", "c"]);
}

#[test]
fn modes() {
    let lexer = Lexer::new('\\');
    let word = "\"a\\\"$b${c:-d}\" \\'";
    for (lexer, expected) in [
        (lexer, "a\"d '"),
        (lexer.raw_quotes(), "\"a\"d\" '"),
        (lexer.raw_escapes(), "a\\\"d \\'"),
        (lexer.skip_unset(), "a\"$b${c:-d} '"),
        (lexer.skip_quotes(), "\"a\"d\" '"),
    ] {
        assert_eq!(lexer.process_word(word, &()).as_deref(), Ok(expected));
    }
    let backtick = Lexer::new('`').process_word("C:\\a` b`$c", &());
    assert_eq!(backtick.as_deref(), Ok("C:\\a b$c"));
    let heredoc = Lexer::for_heredoc().process_word("it's $a \\$b\n", &[("a", "1")][..]);
    assert_eq!(heredoc.as_deref(), Ok("it's 1 $b\n"));
}

#[test]
fn environments() {
    let list = ["A=1".to_owned(), "B".to_owned(), "A=2=3".to_owned()];
    assert_eq!(Environment::get(&list[..], "A"), Some("2=3"));
    assert_eq!(Environment::get(&list[..], "B"), Some(""));
    assert_eq!(Environment::get(&list[..], "C"), None);
    let pairs = vec![("A", "1"), ("A", "2")];
    assert_eq!(Environment::get(&pairs, "A"), Some("2"));
}
