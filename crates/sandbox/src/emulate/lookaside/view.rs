//! Who looks from where: what an answer depends on beside the path and the files.

use crate::emulate::{
    task::Task,
    vfs::{Identity, PlaceKey},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// More than there are in a build; who comes later asks the supervisor.
const MOST: usize = 1 << 14;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct View {
    root: PlaceKey,
    /// Where relative paths begin.
    base: Option<PlaceKey>,
    who: Identity,
}

/// Numbers for views. None is given twice.
#[derive(Debug, Default)]
pub(super) struct Views(Mutex<HashMap<View, u32>>);

impl Views {
    /// The view numbers of a task for absolute and for relative paths; 0 where there is none.
    pub(super) fn of(&self, task: &Task) -> [u32; 2] {
        let who = {
            let it = task.credentials.lock().unwrap_or_else(PoisonError::into_inner);
            let same = |ids: &[u32; 4]| ids[0] == ids[1] && ids[1] == ids[3];
            // access(2) asks with the real ids, all others with the effective ones.
            if !same(&it.uid) || !same(&it.gid) || it.effective != it.permitted {
                return [0, 0];
            }
            it.identity()
        };
        let fs = Arc::clone(&task.fs.lock().unwrap_or_else(PoisonError::into_inner));
        let (root, base) = {
            let fs = fs.lock().unwrap_or_else(PoisonError::into_inner);
            (fs.root.key(), fs.cwd.key())
        };
        let Some(root) = root else { return [0, 0] };
        let absolute = self.number(View { root: root.clone(), base: None, who: who.clone() });
        let relative = base.map_or(0, |base| self.number(View { root, base: Some(base), who }));
        [absolute, relative]
    }

    fn number(&self, view: View) -> u32 {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = known.len() + 1;
        if next > MOST {
            return known.get(&view).copied().unwrap_or(0);
        }
        *known.entry(view).or_insert(next as u32)
    }
}
