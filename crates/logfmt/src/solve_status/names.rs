//! Titles of BuildKit's steps and of what happens in them.

use crate::event::{ExportTarget, InstructionStep, Item, StepKind, Version};

impl StepKind {
    /// What BuildKit's log calls the step.
    #[must_use]
    pub fn title(&self, version: Version) -> String {
        step(self, version)
    }
}

/// The title of a step.
pub(super) fn step(kind: &StepKind, version: Version) -> String {
    match kind {
        StepKind::LoadDefinition { name } => {
            format!("[internal] load build definition from {name}")
        }
        StepKind::ResolveFrontend { reference, .. } => match version {
            Version::V20 => format!("resolve image config for {reference}"),
            Version::V28 => format!("resolve image config for docker-image://{reference}"),
        },
        StepKind::LoadFrontend { reference } => format!("docker-image://{reference}"),
        StepKind::LoadMetadata { reference } => format!("[internal] load metadata for {reference}"),
        StepKind::LoadContextMetadata { context, reference } => {
            format!("[context {context}] load metadata for {reference}")
        }
        StepKind::Auth { scope: Some(scope), host } => format!("[auth] {scope} token for {host}"),
        StepKind::Auth { scope: None, host } => format!("[auth] sharing credentials for {host}"),
        StepKind::LoadIgnore => "[internal] load .dockerignore".to_owned(),
        StepKind::LoadContextIgnore { context } => {
            format!("[context {context}] load .dockerignore")
        }
        StepKind::LoadContext { name: None } => "[internal] load build context".to_owned(),
        StepKind::LoadContext { name: Some(name) } => format!("[context {name}] load from client"),
        StepKind::ContextImage { context, reference } => format!("[context {context}] {reference}"),
        StepKind::ContextLayout { context } => format!("[context {context}] OCI load from client"),
        StepKind::LoadRepository { url } => format!("[internal] load git source {url}"),
        StepKind::LoadRemoteContext => "[internal] load remote build context".to_owned(),
        StepKind::CopyContext => "copy /context /".to_owned(),
        StepKind::InlineDocument => "[internal] preparing inline document".to_owned(),
        StepKind::CacheMountPermissions => match version {
            Version::V20 => "[internal] settings cache mount permissions".to_owned(),
            Version::V28 => "[internal] setting cache mount permissions".to_owned(),
        },
        StepKind::Instruction(step) => instruction(step),
        StepKind::Image { reference } => format!("FROM {reference}"),
        StepKind::Source { url } => url.clone(),
        StepKind::Export { target } => match (target, version) {
            (ExportTarget::Image, _) => "exporting to image",
            (ExportTarget::Oci, _) => "exporting to oci image format",
            (ExportTarget::Docker, _) => "exporting to docker image format",
            (ExportTarget::Tar | ExportTarget::Local, Version::V20) => "exporting to client",
            (ExportTarget::Tar, Version::V28) => "exporting to client tarball",
            (ExportTarget::Local, Version::V28) => "exporting to client directory",
        }
        .to_owned(),
    }
}

/// `[stage 2/10] RUN x`, the position as wide as the number of positions.
fn instruction(step: &InstructionStep) -> String {
    let title = &step.title;
    let stage = step.stage.as_deref();
    if step.position == 0 {
        return stage.map_or_else(|| title.clone(), |stage| format!("[{stage}] {title}"));
    }
    let total = step.positions.to_string();
    let stage = stage.map_or_else(String::new, |stage| format!("{stage} "));
    format!("[{stage}{:>width$}/{total}] {title}", step.position, width = total.len())
}

/// The words of an item's row, before sizes and times.
pub(super) fn item(item: &Item, kind: &StepKind) -> String {
    match item {
        Item::TransferDockerfile => "transferring dockerfile:".to_owned(),
        Item::TransferContext => match kind {
            StepKind::LoadContext { name: Some(name) } | StepKind::LoadContextIgnore { context: name } => {
                format!("transferring {name}:")
            }
            _ => "transferring context:".to_owned(),
        },
        Item::Resolve { reference } => format!("resolve {reference}"),
        Item::Download { digest } => digest.clone(),
        Item::Extract { digest } => format!("extracting {digest}"),
        Item::ExportLayers => "exporting layers".to_owned(),
        Item::ExportManifest { digest } => format!("exporting manifest {digest}"),
        Item::ExportConfig { digest } => format!("exporting config {digest}"),
        Item::WriteImage { id } => format!("writing image {id}"),
        Item::Name { name } => format!("naming to {name}"),
        Item::SendTarball => "sending tarball".to_owned(),
        Item::CopyFiles => "copying files".to_owned(),
        Item::Fetch { url } => format!("fetching {url}"),
        Item::PushLayers => "pushing layers".to_owned(),
        Item::PushManifest { name } => format!("pushing manifest for {name}"),
    }
}

/// BuildKit's word for what is done to the item, as its status messages have it.
pub(super) fn action(item: &Item, done: bool) -> &'static str {
    match item {
        Item::TransferDockerfile | Item::TransferContext | Item::CopyFiles => "transferring",
        Item::Download { .. } if done => "done",
        Item::Download { .. } => "downloading",
        Item::Extract { .. } => "extract",
        _ => "",
    }
}
