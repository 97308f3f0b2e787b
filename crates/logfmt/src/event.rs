//! What happened in a build: the facts that every rendering is made from.
//!
//! Events are the only thing a renderer sees. They carry facts and times, never words of a log: those belong to the
//! renderers, since they differ by dialect. An event stream is serialisable (JSON lines) and lossless, so that a
//! recorded build can be shown again in any format.

use serde::{Deserialize, Serialize};

pub use crate::pull_failure::{Content, Lookup, NoAnswer, Part, PullFailure, Refusal, Request};
pub use crate::repository_failure::{GitFailed, GitTask, RepositoryProblem};

/// Whose behaviour and words are reproduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Dialect {
    /// Which of Docker's two builders.
    pub builder: Builder,
    /// Which Docker release.
    pub version: Version,
}

/// One of Docker's two builders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Builder {
    /// The classic builder (`DOCKER_BUILDKIT=0`).
    Legacy,
    /// BuildKit.
    Buildkit,
}

/// The Docker release whose log and behaviour are reproduced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Version {
    /// Docker 20.10.24.
    #[serde(rename = "20")]
    V20,
    /// Docker 28.5.2 with buildx 0.29.
    #[serde(rename = "28")]
    V28,
}

/// What is done with a Dockerfile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Call {
    /// An image is built.
    #[default]
    Build,
    /// Its build checks are run, and nothing is built.
    Check,
}

impl Call {
    fn is_build(&self) -> bool {
        *self == Call::Build
    }
}

/// Names a step of one build; unique in its event stream, in order of declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StepId(pub u32);

/// First and last line of a piece of the Dockerfile, counted from 1, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lines {
    /// First line.
    pub start: u32,
    /// Last line.
    pub end: u32,
}

/// A fact and when it happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Nanoseconds since the build began.
    pub at: u64,
    /// What happened.
    #[serde(flatten)]
    pub fact: Fact,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Fact {
    /// The first event: a build began.
    BuildStarted {
        /// Version of this event format.
        format: u32,
        /// The dialect whose semantics are in force.
        dialect: Dialect,
        /// Wall clock of the start, nanoseconds since the Unix epoch.
        unix_ns: u64,
        /// `-q`: only the image id is shown.
        quiet: bool,
        /// What is asked for.
        #[serde(default, skip_serializing_if = "Call::is_build")]
        call: Call,
    },
    /// The Dockerfile was read: its name as Docker shows it, and its bytes (for excerpts around errors).
    Dockerfile {
        /// As given by `-f`, relative to the context, `Dockerfile` by default; `-` never.
        name: String,
        /// Its text, lossily decoded.
        text: String,
        /// Where the caller has it, as its flags say: `-f` itself, else below PATH; `stdin` for standard input.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
    },
    /// The build context was measured.
    Context {
        /// Size of the tar that Docker's legacy client would send, in bytes; for a context on stdin, the bytes read.
        tar_bytes: u64,
    },
    /// Legacy: the client fetched the context from a URL.
    ContextFetched {
        /// The URL as given.
        url: String,
        /// Bytes that came.
        bytes: u64,
        /// Bytes that the server announced.
        total: Option<u64>,
        /// It is a plain tar, of which the daemon does not read the end, so that nothing is told of its being sent.
        plain: bool,
    },
    /// A step is known from now on.
    StepDeclared(Step),
    /// BuildKit: the digest that names a step (its vertex), where it is known; without it one is made from its title.
    VertexDigest {
        /// Of which step.
        step: StepId,
        /// `sha256:…`.
        digest: String,
    },
    /// A step began. BuildKit: it may begin again after it ended; the times add up.
    StepStarted {
        /// Which.
        step: StepId,
    },
    /// Something measurable within a step moved on.
    Progress {
        /// In which step.
        step: StepId,
        /// What.
        item: Item,
        /// Bytes (or units) done.
        current: u64,
        /// Bytes in all where known.
        total: Option<u64>,
        /// It is complete. The first event of an item starts it: one event alone with `done` took no time.
        done: bool,
    },
    /// A RUN wrote something, or git in a step of BuildKit's.
    Output {
        /// In which step.
        step: StepId,
        /// Where to.
        stream: Stream,
        /// How many bytes its command wrote to this stream before these.
        #[serde(default)]
        offset: u64,
        /// The bytes, exactly.
        #[serde(with = "crate::bytes")]
        data: Vec<u8>,
    },
    /// Legacy: a container of the step was made (`Running in`) or removed.
    Container {
        /// For which step.
        step: StepId,
        /// 64 hexadecimal digits.
        id: String,
        /// False when it was made, true when it was removed.
        removed: bool,
    },
    /// Legacy: the triggers of a base image run now, within the step of FROM.
    Triggers {
        /// Within which step.
        step: StepId,
        /// How many.
        count: u32,
    },
    /// Something in the base image pull of a step (legacy shows these lines; BuildKit shows `Progress`).
    Pull {
        /// In which step.
        step: StepId,
        /// What happened.
        fact: PullFact,
    },
    /// A step ended well.
    StepDone {
        /// Which.
        step: StepId,
        /// It was taken from the cache.
        cached: bool,
        /// Legacy: the image that the step made, `sha256:…`.
        image: Option<String>,
    },
    /// A step ended badly. One that had ended well before (a base image, not yet needed) may still be cancelled.
    StepFailed {
        /// Which.
        step: StepId,
        /// Why; `None` when it was cancelled because another failed.
        failure: Option<Failure>,
    },
    /// Something is odd, in Docker's eyes, about the Dockerfile or the request.
    Warning(Warning),
    /// Something rbuild itself wants to say; never part of a log that imitates Docker.
    Note {
        /// The text, no final period.
        text: String,
        /// Whether the user should be told beside the log.
        #[serde(default)]
        shown: bool,
    },
    /// The last event: the build ended.
    BuildEnded {
        /// How.
        outcome: Outcome,
    },
}

/// A stream of a RUN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One thing a build does that has lines of its own in a log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Its name in this stream.
    pub id: StepId,
    /// What it is.
    pub kind: StepKind,
    /// What must end before it can begin.
    pub inputs: Vec<StepId>,
}

/// What a step is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum StepKind {
    /// BuildKit: `[internal] load build definition from NAME`.
    LoadDefinition {
        /// Name of the Dockerfile.
        name: String,
    },
    /// BuildKit: `[context NAME] load metadata for REFERENCE`, for a named context that is an image.
    LoadContextMetadata {
        /// Name of the context.
        context: String,
        /// The reference, as the user wrote it.
        reference: String,
    },
    /// BuildKit: `[context NAME] load .dockerignore`, for a named context that is a directory.
    LoadContextIgnore {
        /// Name of the context.
        context: String,
    },
    /// BuildKit: `[context NAME] REFERENCE`, the image of a named context.
    ContextImage {
        /// Name of the context.
        context: String,
        /// The reference, as the user wrote it.
        reference: String,
    },
    /// BuildKit: `[context NAME] OCI load from client`, the image of a named context that is an OCI layout.
    ContextLayout {
        /// Name of the context.
        context: String,
    },
    /// BuildKit: the frontend named by `# syntax=` is looked up.
    ResolveFrontend {
        /// Canonical reference.
        reference: String,
        /// The value of the build argument `BUILDKIT_SYNTAX`, if that names it.
        #[serde(default)]
        argument: Option<String>,
    },
    /// BuildKit: the frontend named by `# syntax=` is loaded.
    LoadFrontend {
        /// Canonical reference with digest.
        reference: String,
    },
    /// BuildKit: `[internal] load metadata for REFERENCE`.
    LoadMetadata {
        /// Canonical reference.
        reference: String,
    },
    /// BuildKit: a password is used, `[auth] …`.
    Auth {
        /// For a token of this scope, as Docker shows it; `None` if the registry itself is shown the password.
        scope: Option<String>,
        /// Registry host.
        host: String,
    },
    /// BuildKit: `[internal] load .dockerignore`.
    LoadIgnore,
    /// BuildKit: `[internal] load build context`, or that of a named context.
    LoadContext {
        /// The named context, if it is not the main one.
        name: Option<String>,
    },
    /// BuildKit: `[internal] load git source URL`, for a context that is a git repository.
    LoadRepository {
        /// The URL as given, without passwords.
        url: String,
    },
    /// BuildKit: `[internal] load remote build context`, for a context that is an archive on standard input, or a URL.
    LoadRemoteContext,
    /// BuildKit: `copy /context /`, the archive of a context taken apart.
    CopyContext,
    /// BuildKit: `[internal] preparing inline document`, a heredoc of COPY or ADD.
    InlineDocument,
    /// BuildKit: `[internal] setting cache mount permissions`, for a cache whose owner or mode is given.
    CacheMountPermissions,
    /// An instruction of the Dockerfile (or a trigger of a base image).
    Instruction(InstructionStep),
    /// A base or source image that is no stage of its own: `FROM REFERENCE`.
    Image {
        /// Canonical reference with digest.
        reference: String,
    },
    /// A remote file or repository that ADD takes.
    Source {
        /// The URL, as Docker shows it.
        url: String,
    },
    /// The result is written: `exporting to image` and the like.
    Export {
        /// To what.
        target: ExportTarget,
    },
}

/// Where a result goes, as far as the log shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportTarget {
    /// The image store.
    Image,
    /// An OCI archive or directory.
    Oci,
    /// A docker-archive.
    Docker,
    /// A tar of the root file system.
    Tar,
    /// A directory with the root file system.
    Local,
}

/// An instruction as a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstructionStep {
    /// Its name in capitals.
    pub instruction: String,
    /// Legacy: its number in the whole Dockerfile, counted from 1; 0 for a trigger of a base image.
    pub number: u32,
    /// Legacy: how many steps the Dockerfile has.
    pub total: u32,
    /// Legacy: the text after `Step n/m : `.
    pub text: String,
    /// BuildKit: the text after `[stage n/m] `, with variables substituted as BuildKit shows them.
    pub title: String,
    /// BuildKit: name of the stage in brackets; `None` where the only stage has no name.
    pub stage: Option<String>,
    /// BuildKit: position in its stage, counted from 1; 0 where it has none.
    pub position: u32,
    /// BuildKit: how many positions its stage has.
    pub positions: u32,
    /// Where it stands in the Dockerfile.
    pub lines: Option<Lines>,
}

/// Something measurable within a step.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "item", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Item {
    /// `transferring dockerfile:`.
    TransferDockerfile,
    /// `transferring context:`, or `transferring NAME:` in a step of a named context.
    TransferContext,
    /// `resolve REFERENCE`.
    Resolve {
        /// Canonical reference with digest.
        reference: String,
    },
    /// A blob is downloaded: `sha256:… 1.07MB / 1.07MB`.
    Download {
        /// Its digest.
        digest: String,
    },
    /// A layer is unpacked: `extracting sha256:…`.
    Extract {
        /// Its digest.
        digest: String,
    },
    /// `exporting layers`.
    ExportLayers,
    /// `exporting manifest sha256:…`.
    ExportManifest {
        /// Its digest.
        digest: String,
    },
    /// `exporting config sha256:…`.
    ExportConfig {
        /// Its digest.
        digest: String,
    },
    /// `writing image sha256:…`.
    WriteImage {
        /// Image id.
        id: String,
    },
    /// `naming to NAME`.
    Name {
        /// Canonical name.
        name: String,
    },
    /// `sending tarball`.
    SendTarball,
    /// `copying files`.
    CopyFiles,
    /// Legacy: a file that ADD names by its address. BuildKit has a step for it.
    Fetch {
        /// The address, as written.
        url: String,
    },
    /// `pushing layers`.
    PushLayers,
    /// `pushing manifest for NAME@DIGEST`.
    PushManifest {
        /// Canonical name with digest.
        name: String,
    },
}

/// Something that happens in a pull.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "pull", rename_all = "snake_case")]
#[non_exhaustive]
pub enum PullFact {
    /// `TAG: Pulling from REPOSITORY`.
    Started {
        /// Tag, or digest.
        tag: String,
        /// Repository as Docker shows it here (`library/busybox`).
        repository: String,
    },
    /// The state of one layer changed.
    Layer {
        /// Digest of the layer's blob.
        digest: String,
        /// Its new state.
        state: LayerState,
    },
    /// `Digest:` and `Status:`.
    Finished {
        /// Digest of the manifest or index.
        digest: String,
        /// Familiar name.
        name: String,
        /// Whether anything new came.
        newer: bool,
    },
    /// What came is for another platform than the one asked for.
    OtherPlatform {
        /// The one that was asked for.
        wanted: String,
        /// That of the image.
        actual: String,
        /// Familiar name.
        name: String,
    },
}

/// States of a layer in a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerState {
    /// `Already exists`.
    Exists,
    /// `Pulling fs layer`.
    Pulling,
    /// `Waiting`.
    Waiting,
    /// `Downloading`; shown only of a layer of which nothing comes.
    Downloading,
    /// `Verifying Checksum`.
    Verifying,
    /// `Download complete`.
    Downloaded,
    /// `Pull complete`.
    Complete,
}

/// A warning of Docker's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "warning", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Warning {
    /// A build check of BuildKit's found something.
    Lint {
        /// Name of the rule, as `JSONArgsRecommended`.
        rule: String,
        /// What it says of this place.
        message: String,
        /// What the rule is about.
        description: String,
        /// Where to read more.
        url: String,
        /// Where.
        lines: Option<Lines>,
    },
    /// `[Warning] One or more build-args [A B] were not consumed`.
    UnusedBuildArgs {
        /// Their names.
        names: Vec<String>,
    },
    /// Legacy: instructions with an empty line inside a continuation, before the first step.
    EmptyContinuations {
        /// Their texts, as in [`InstructionStep::text`].
        instructions: Vec<String>,
    },
    /// Legacy: an instruction replaces a health check.
    HealthcheckOverridden {
        /// That of before: `CMD` or `CMD-SHELL` and its words.
        test: Vec<String>,
    },
    /// Any other `[Warning]` of the legacy builder.
    Legacy {
        /// Text after `[Warning] `.
        text: String,
        /// In which step, if within one.
        step: Option<StepId>,
    },
}

/// How a build ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// An image was built.
    Success {
        /// Its id (`sha256:…`).
        image: String,
        /// Names given to it, familiar form.
        tags: Vec<String>,
    },
    /// It failed.
    Failure {
        /// Why.
        failure: Failure,
        /// In which step, if in one.
        step: Option<StepId>,
        /// Where in the Dockerfile, if known.
        lines: Option<Lines>,
    },
    /// The build checks were run ([`Call::Check`]); what they found are warnings.
    Checked {
        /// How many warnings there were.
        warnings: u32,
        /// What is wrong with the Dockerfile, so that the checks did not see all of it.
        failure: Option<Failure>,
        /// In which step that was noticed, if in one.
        step: Option<StepId>,
        /// Where in the Dockerfile that is, if known.
        lines: Option<Lines>,
        /// Whether warnings are no failure in the eyes of who asked.
        #[serde(default)]
        ignored: bool,
    },
    /// It was cancelled from outside.
    Cancelled {
        /// By this signal, where it was one.
        #[serde(default)]
        signal: Option<i32>,
    },
}

/// Why a file that ADD names by its address cannot be had.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "problem", rename_all = "snake_case")]
#[non_exhaustive]
pub enum DownloadProblem {
    /// The server refused.
    Status {
        /// The HTTP status.
        status: u16,
        /// The body, lossily decoded, as far as it was read.
        body: String,
    },
    /// No answer came.
    NoAnswer {
        /// Why.
        why: NoAnswer,
    },
    /// The connection ended in the middle.
    Cut,
    /// It is not what `--checksum` says.
    Checksum {
        /// The digest of what came.
        actual: String,
        /// That of `--checksum`.
        expected: String,
    },
    /// Anything else, in our own words.
    Other {
        /// The text.
        detail: String,
    },
}

/// Why a build or a step failed, as facts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "failure", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Failure {
    /// The Dockerfile is wrong: Docker's text of the parse error, without prefixes of the client or the builder.
    Parse {
        /// Docker's text.
        message: String,
        /// Legacy: name of the file, where it is no Dockerfile at all and not one instruction that is wrong.
        #[serde(default)]
        file: Option<String>,
    },
    /// The request is wrong (unknown target, bad reference, missing Dockerfile …): Docker's text without prefixes.
    Request {
        /// Docker's text.
        message: String,
        /// Who says it: this decides the prefix.
        by: Speaker,
    },
    /// A name that the image shall have is none.
    Tag {
        /// The name as it was given.
        tag: String,
        /// Docker's reason.
        reason: String,
    },
    /// A command ended with a code other than 0.
    Run {
        /// The command.
        argv: Vec<String>,
        /// Exit code, 1 to 255; 128 + n for signal n.
        code: i32,
    },
    /// A command could not be started.
    Start {
        /// The command.
        argv: Vec<String>,
        /// The runtime's text from `exec: ` on, as `exec: "x": executable file not found in $PATH`; what stands before
        /// it differs by dialect.
        message: String,
        /// Exit code that BuildKit names in its text: 1.
        code: i32,
    },
    /// The user of a RUN is unknown, and the like: text without prefix.
    Setup {
        /// The command, if the step has one.
        argv: Vec<String>,
        /// The text.
        message: String,
    },
    /// COPY or ADD failed.
    Copy {
        /// `COPY` or `ADD`.
        instruction: String,
        /// Docker's text after `COPY failed: ` (legacy) or the cause as BuildKit has it.
        message: String,
        /// BuildKit: the source is missing, found while computing the cache key: its absolute path inside the source
        /// (`/not-here.txt`). BuildKit's text is made from it, unless `message` already has that text.
        missing: Option<String>,
    },
    /// An instruction failed for another reason: Docker's text.
    Instruction {
        /// Docker's text.
        message: String,
    },
    /// Build checks found something, and `error=true` makes that a failure.
    Lint {
        /// Names of the rules, each once.
        rules: Vec<String>,
    },
    /// An image cannot be had.
    Pull {
        /// As the user wrote it, after expansion of variables; Docker shows it in several normal forms.
        reference: String,
        /// Why.
        cause: Box<PullFailure>,
        /// Legacy: the value of COPY's `--from`, if that named it.
        #[serde(default)]
        flag: Option<String>,
    },
    /// A file that ADD names by its address cannot be had.
    Download {
        /// The address, as written.
        url: String,
        /// Why.
        problem: DownloadProblem,
    },
    /// Legacy: the client cannot fetch the context.
    ContextDownload {
        /// Its address, without passwords.
        url: String,
        /// Why.
        problem: DownloadProblem,
    },
    /// A git repository cannot be had.
    Repository {
        /// Its address, without passwords.
        remote: String,
        /// Why.
        problem: RepositoryProblem,
        /// BuildKit: this was found while the cache key was computed, and not when the files were wanted.
        #[serde(default)]
        resolving: bool,
    },
    /// Nothing to do with Docker: our own words (no space, no permission …).
    Own {
        /// What happened; each further line is a cause of the line before.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
}

/// Who in Docker notices that a request is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speaker {
    /// The command-line client, before anything is sent.
    Client,
    /// Legacy: the daemon, before the first line of the log (`Error response from daemon: `). BuildKit: the frontend
    /// before it understood the Dockerfile (as `failed to read dockerfile: …`).
    Daemon,
    /// The builder, in its stream. BuildKit: the frontend while it reads the Dockerfile.
    Builder,
}
