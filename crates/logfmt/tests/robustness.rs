//! No sequence of events panics a renderer, however little sense it makes; and what is written can be read.

use indicatif::ProgressDrawTarget;
use proptest::prelude::*;
use rbuild_logfmt::event::{
    Builder, Call, Dialect, ExportTarget, Fact, Failure, InstructionStep, Item, LayerState, Lines, NoAnswer, Outcome,
    Part, PullFact, PullFailure, Refusal, Request, Speaker, Step, StepId, StepKind, Stream, Version, Warning,
};
use rbuild_logfmt::{Captured, Event, EventsError, Format, RenderOptions, read_events, renderer};

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,12}",
        "\\PC{0,6}",
        Just("sha256:0123456789abcdef".to_owned()),
        Just("é\u{1b}[31m\r\n".to_owned())
    ]
}

fn step() -> impl Strategy<Value = StepId> {
    (0u32..4).prop_map(StepId)
}

fn lines() -> impl Strategy<Value = Option<Lines>> {
    proptest::option::of((any::<u32>(), any::<u32>()).prop_map(|(start, end)| Lines { start, end }))
}

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![
        Just(Item::TransferDockerfile),
        Just(Item::TransferContext),
        text().prop_map(|digest| Item::Download { digest }),
        text().prop_map(|digest| Item::Extract { digest }),
        Just(Item::ExportLayers),
    ]
}

fn kind() -> impl Strategy<Value = StepKind> {
    prop_oneof![
        text().prop_map(|name| StepKind::LoadDefinition { name }),
        text().prop_map(|reference| StepKind::LoadMetadata { reference }),
        proptest::option::of(text()).prop_map(|name| StepKind::LoadContext { name }),
        Just(StepKind::Export { target: ExportTarget::Local }),
        (text(), proptest::option::of(text()), any::<u32>(), any::<u32>()).prop_map(|(text, stage, a, b)| {
            StepKind::Instruction(InstructionStep {
                instruction: text.clone(),
                number: a,
                total: b,
                text: text.clone(),
                title: text,
                stage,
                position: b,
                positions: a,
                lines: None,
            })
        }),
    ]
}

fn failure() -> impl Strategy<Value = Failure> {
    let request = |part| move |url| Request { part, method: "GET".into(), url, user: false, content: None };
    let refused =
        (text(), any::<u16>(), text(), proptest::option::of(text())).prop_map(move |(url, status, body, said)| {
            let request = request(Part::Name)(url);
            let head = status.is_multiple_of(2).then_some(status);
            PullFailure::Refused(Box::new(Refusal { request, status, head, content_type: None, body, challenge: said }))
        });
    // Boxed, since the stack of a test is small for so large a strategy.
    let pull = prop_oneof![
        refused,
        text().prop_map(move |url| PullFailure::NoAnswer {
            request: request(Part::Token)(url),
            problem: NoAnswer::Closed
        }),
        text().prop_map(|detail| PullFailure::Other { detail }),
    ]
    .boxed();
    prop_oneof![
        (text(), proptest::option::of(text())).prop_map(|(message, file)| Failure::Parse { message, file }),
        text().prop_map(|message| Failure::Request { message, by: Speaker::Client }),
        (text(), any::<i32>()).prop_map(|(a, code)| Failure::Run { argv: vec![a], code }),
        (text(), any::<i32>()).prop_map(|(message, code)| Failure::Start { argv: vec![], message, code }),
        (text(), proptest::option::of(text())).prop_map(|(message, missing)| Failure::Copy {
            instruction: "COPY".into(),
            message,
            missing
        }),
        (text(), pull).prop_map(|(reference, cause)| Failure::Pull { reference, cause: Box::new(cause), flag: None }),
        (text(), proptest::option::of(text())).prop_map(|(message, hint)| Failure::Own { message, hint }),
    ]
    .boxed()
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        (text(), proptest::collection::vec(text(), 0..3)).prop_map(|(image, tags)| Outcome::Success { image, tags }),
        (failure(), proptest::option::of(step()), lines())
            .prop_map(|(failure, step, lines)| { Outcome::Failure { failure, step, lines } }),
        (any::<u32>(), proptest::option::of(failure()), proptest::option::of(step()), lines(), any::<bool>()).prop_map(
            |(warnings, failure, step, lines, ignored)| Outcome::Checked { warnings, failure, step, lines, ignored }
        ),
        proptest::option::of(any::<i32>()).prop_map(|signal| Outcome::Cancelled { signal }),
    ]
}

fn fact() -> impl Strategy<Value = Fact> {
    let dialect = (any::<bool>(), any::<bool>()).prop_map(|(legacy, old)| Dialect {
        builder: if legacy { Builder::Legacy } else { Builder::Buildkit },
        version: if old { Version::V20 } else { Version::V28 },
    });
    let state = prop_oneof![Just(LayerState::Pulling), Just(LayerState::Complete)];
    prop_oneof![
        1 => (dialect, any::<u64>(), any::<bool>(), any::<bool>()).prop_map(|(dialect, unix_ns, quiet, check)| {
            let call = if check { Call::Check } else { Call::Build };
            Fact::BuildStarted { format: 1, dialect, unix_ns, quiet, call }
        }),
        1 => (text(), text()).prop_map(|(name, text)| Fact::Dockerfile { name, text, path: None }),
        1 => any::<u64>().prop_map(|tar_bytes| Fact::Context { tar_bytes }),
        4 => (step(), kind(), proptest::collection::vec(step(), 0..3))
            .prop_map(|(id, kind, inputs)| Fact::StepDeclared(Step { id, kind, inputs })),
        4 => step().prop_map(|step| Fact::StepStarted { step }),
        4 => (step(), item(), any::<u64>(), proptest::option::of(any::<u64>()), any::<bool>())
            .prop_map(|(step, item, current, total, done)| Fact::Progress { step, item, current, total, done }),
        4 => (step(), any::<bool>(), any::<u64>(), proptest::collection::vec(any::<u8>(), 0..40)).prop_map(
            |(step, out, offset, data)| {
                Fact::Output { step, stream: if out { Stream::Stdout } else { Stream::Stderr }, offset, data }
            }
        ),
        1 => (step(), text(), any::<bool>()).prop_map(|(step, id, removed)| Fact::Container { step, id, removed }),
        1 => (step(), text(), state).prop_map(|(step, digest, state)| Fact::Pull {
            step,
            fact: PullFact::Layer { digest, state }
        }),
        3 => (step(), any::<bool>(), proptest::option::of(text()))
            .prop_map(|(step, cached, image)| Fact::StepDone { step, cached, image }),
        2 => (step(), proptest::option::of(failure())).prop_map(|(step, failure)| Fact::StepFailed { step, failure }),
        1 => (text(), lines()).prop_map(|(rule, lines)| Fact::Warning(Warning::Lint {
            message: rule.clone(),
            description: rule.clone(),
            url: rule.clone(),
            rule,
            lines
        })),
        1 => proptest::collection::vec(text(), 0..3)
            .prop_map(|instructions| Fact::Warning(Warning::EmptyContinuations { instructions })),
        1 => outcome().prop_map(|outcome| Fact::BuildEnded { outcome }),
    ]
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    // Mostly short times, so that limits of the display matter; sometimes any, even ones that go back.
    let delay = prop_oneof![8 => 0u64..300_000_000, 1 => 0u64..40_000_000_000, 1 => any::<u64>()];
    proptest::collection::vec((delay, fact()), 0..40).prop_map(|list| {
        let mut now = 0u64;
        let event = |(delay, fact): (u64, Fact)| {
            now = now.wrapping_add(delay);
            Event { at: now, fact }
        };
        list.into_iter().map(event).collect()
    })
}

const FORMATS: [Format; 6] =
    [Format::Legacy, Format::Buildkit, Format::Tty, Format::RawJson, Format::Events, Format::Quiet];

fn render(events: &[Event], format: Format, tick: bool) -> Captured {
    let mut out = Captured::default();
    let draw_target = Some(ProgressDrawTarget::hidden());
    let options = RenderOptions { expand_warnings: true, check_json: true, no_clip: false, draw_target };
    let mut log = renderer(format, options);
    for event in events {
        log.event(event, &mut out);
        if tick {
            log.tick(event.at, &mut out);
        }
    }
    log.finish(&mut out);
    out
}

proptest! {
    #[test]
    fn no_sequence_of_events_panics(events in events()) {
        for format in FORMATS {
            render(&events, format, true);
        }
    }

    #[test]
    fn the_same_events_give_the_same_bytes(events in events()) {
        for format in FORMATS {
            prop_assert_eq!(render(&events, format, false), render(&events, format, false));
        }
    }

    #[test]
    fn what_is_written_can_be_read(events in events()) {
        let written = render(&events, Format::Events, false).stdout;
        let read: Result<Vec<Event>, EventsError> = read_events(written.as_slice()).collect();
        prop_assert_eq!(read.unwrap(), events);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(read_events(bytes.as_slice()).count() <= bytes.len() + 1);
    }
}

#[test]
fn a_line_that_is_no_event_ends_the_reading_and_is_named() {
    let text = "\n{\"at\":1,\"event\":\"note\",\"text\":\"x\"}\nnonsense\n{}\n";
    let read: Vec<_> = read_events(text.as_bytes()).collect();
    assert!(matches!(read.as_slice(), [Ok(_), Err(EventsError::Syntax { line: 3, .. })]), "{read:?}");
    let newer = r#"{"at":0,"event":"build_started","format":99,"dialect":{"builder":"legacy","version":"28"},"unix_ns":0,"quiet":false}"#;
    let read: Vec<_> = read_events(newer.as_bytes()).collect();
    assert!(matches!(read.as_slice(), [Err(EventsError::Format { found: 99 })]), "{read:?}");
}

#[test]
fn rawjson_has_the_form_of_buildkit() {
    let id = StepId(0);
    let step = Step { id, kind: StepKind::Image { reference: "docker.io/a/b".into() }, inputs: vec![] };
    let dialect = Dialect { builder: Builder::Buildkit, version: Version::V28 };
    let facts = [
        Fact::BuildStarted { format: 1, dialect, unix_ns: 1_795_343_539_000_000_000, quiet: false, call: Call::Build },
        Fact::StepDeclared(step),
        Fact::VertexDigest { step: id, digest: "sha256:6e1e".into() },
        Fact::StepStarted { step: id },
        Fact::Progress { step: id, item: Item::TransferContext, current: 2, total: None, done: true },
        Fact::Output { step: id, stream: Stream::Stderr, offset: 0, data: b"err\n".to_vec() },
        Fact::StepFailed { step: id, failure: Some(Failure::Instruction { message: "a & b".into() }) },
    ];
    let events: Vec<Event> =
        facts.into_iter().zip(0u64..).map(|(fact, n)| Event { at: n * 100_000_000, fact }).collect();
    let text = String::from_utf8(render(&events, Format::RawJson, false).stderr).unwrap();
    let lines: Vec<&str> = text.lines().skip(1).collect();
    // As `docker buildx build --progress=rawjson` of Docker 28.5.2 writes them.
    let want = [
        // Looked at for its cache key, then fetched.
        r#"{"vertexes":[{"digest":"sha256:6e1e","name":"FROM docker.io/a/b","started":"2026-11-22T10:32:19.3Z","completed":"2026-11-22T10:32:19.3Z"}]}"#,
        r#"{"vertexes":[{"digest":"sha256:6e1e","name":"FROM docker.io/a/b","started":"2026-11-22T10:32:19.3Z"}]}"#,
        r#"{"statuses":[{"id":"transferring context:","vertex":"sha256:6e1e","name":"transferring","current":0,"timestamp":"2026-11-22T10:32:19.4Z","started":"2026-11-22T10:32:19.4Z"}]}"#,
        r#"{"statuses":[{"id":"transferring context:","vertex":"sha256:6e1e","name":"transferring","current":2,"timestamp":"2026-11-22T10:32:19.4Z","started":"2026-11-22T10:32:19.4Z","completed":"2026-11-22T10:32:19.4Z"}]}"#,
        r#"{"logs":[{"vertex":"sha256:6e1e","stream":2,"data":"ZXJyCg==","timestamp":"2026-11-22T10:32:19.5Z"}]}"#,
        r#"{"vertexes":[{"digest":"sha256:6e1e","name":"FROM docker.io/a/b","started":"2026-11-22T10:32:19.3Z","completed":"2026-11-22T10:32:19.6Z","error":"a \u0026 b"}]}"#,
    ];
    assert_eq!(lines, want);
}
