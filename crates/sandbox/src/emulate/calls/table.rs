//! How each system call of x86-64 is handled: the one table from which the filter is built.
//!
//! A call that is not here is made as it is. Numbers that are newer than the C library's headers are written out.

use nix::libc;

/// What the filter does with a call that is not simply made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// The supervisor answers it.
    Notify,
    /// The tracer stops before it, since its arguments are rewritten.
    Trace,
    /// The filter refuses it.
    Errno(i32),
}

use Disposition::{Errno, Notify, Trace};

/// `SYS_*` that libc does not name yet.
pub(crate) mod new {
    pub(crate) const FCHMODAT2: i64 = 452;
    pub(crate) const STATMOUNT: i64 = 457;
    pub(crate) const LISTMOUNT: i64 = 458;
    pub(crate) const SETXATTRAT: i64 = 463;
    pub(crate) const GETXATTRAT: i64 = 464;
    pub(crate) const LISTXATTRAT: i64 = 465;
    pub(crate) const REMOVEXATTRAT: i64 = 466;
    pub(crate) const OPEN_TREE_ATTR: i64 = 467;
    pub(crate) const FILE_GETATTR: i64 = 468;
    pub(crate) const FILE_SETATTR: i64 = 469;
    pub(crate) const LISTNS: i64 = 470;
}

/// Every call that is not simply allowed, in ascending order of number.
pub(crate) const TABLE: &[(i64, Disposition)] = &[
    (libc::SYS_open, Notify),                                 // 2
    (libc::SYS_stat, Notify),                                 // 4
    (libc::SYS_fstat, Notify),                                // 5
    (libc::SYS_lstat, Notify),                                // 6
    (libc::SYS_access, Notify),                               // 21
    (libc::SYS_socket, Notify),                               // 41: the socket of a step without a network
    (libc::SYS_connect, Trace),                               // 42
    (libc::SYS_bind, Trace),                                  // 49
    (libc::SYS_clone, Trace),                                 // 56
    (libc::SYS_execve, Trace),                                // 59
    (libc::SYS_kill, Notify),                                 // 62: -1 means every process of the user
    (libc::SYS_uname, Notify),                                // 63
    (libc::SYS_truncate, Notify),                             // 76
    (libc::SYS_getdents, Trace),                              // 78
    (libc::SYS_getcwd, Notify),                               // 79
    (libc::SYS_chdir, Notify),                                // 80
    (libc::SYS_fchdir, Notify),                               // 81
    (libc::SYS_rename, Notify),                               // 82
    (libc::SYS_mkdir, Notify),                                // 83
    (libc::SYS_rmdir, Notify),                                // 84
    (libc::SYS_creat, Notify),                                // 85
    (libc::SYS_link, Notify),                                 // 86
    (libc::SYS_unlink, Notify),                               // 87
    (libc::SYS_symlink, Notify),                              // 88
    (libc::SYS_readlink, Notify),                             // 89
    (libc::SYS_chmod, Notify),                                // 90
    (libc::SYS_fchmod, Notify),                               // 91
    (libc::SYS_chown, Notify),                                // 92
    (libc::SYS_fchown, Notify),                               // 93
    (libc::SYS_lchown, Notify),                               // 94
    (libc::SYS_umask, Notify),                                // 95
    (libc::SYS_ptrace, Notify),                               // 101: a process has one tracer
    (libc::SYS_getuid, Notify),                               // 102
    (libc::SYS_getgid, Notify),                               // 104
    (libc::SYS_setuid, Notify),                               // 105
    (libc::SYS_setgid, Notify),                               // 106
    (libc::SYS_geteuid, Notify),                              // 107
    (libc::SYS_getegid, Notify),                              // 108
    (libc::SYS_setreuid, Notify),                             // 113
    (libc::SYS_setregid, Notify),                             // 114
    (libc::SYS_getgroups, Notify),                            // 115
    (libc::SYS_setgroups, Notify),                            // 116
    (libc::SYS_setresuid, Notify),                            // 117
    (libc::SYS_getresuid, Notify),                            // 118
    (libc::SYS_setresgid, Notify),                            // 119
    (libc::SYS_getresgid, Notify),                            // 120
    (libc::SYS_setfsuid, Notify),                             // 122
    (libc::SYS_setfsgid, Notify),                             // 123
    (libc::SYS_capget, Notify),                               // 125
    (libc::SYS_capset, Notify),                               // 126
    (libc::SYS_utime, Notify),                                // 132
    (libc::SYS_mknod, Notify),                                // 133
    (libc::SYS_uselib, Errno(libc::ENOSYS)),                  // 134
    (libc::SYS_statfs, Notify),                               // 137
    (libc::SYS_fstatfs, Notify),                              // 138
    (libc::SYS_pivot_root, Notify),                           // 155
    (libc::SYS_prctl, Notify),                                // 157
    (libc::SYS_chroot, Notify),                               // 161
    (libc::SYS_acct, Errno(libc::EPERM)),                     // 163
    (libc::SYS_mount, Notify),                                // 165
    (libc::SYS_umount2, Notify),                              // 166
    (libc::SYS_swapon, Errno(libc::EPERM)),                   // 167
    (libc::SYS_swapoff, Errno(libc::EPERM)),                  // 168
    (libc::SYS_reboot, Errno(libc::EPERM)),                   // 169
    (libc::SYS_sethostname, Notify),                          // 170
    (libc::SYS_setdomainname, Notify),                        // 171
    (libc::SYS_quotactl, Errno(libc::EPERM)),                 // 179
    (libc::SYS_setxattr, Notify),                             // 188
    (libc::SYS_lsetxattr, Notify),                            // 189
    (libc::SYS_fsetxattr, Notify),                            // 190
    (libc::SYS_getxattr, Notify),                             // 191
    (libc::SYS_lgetxattr, Notify),                            // 192
    (libc::SYS_fgetxattr, Notify),                            // 193
    (libc::SYS_listxattr, Notify),                            // 194
    (libc::SYS_llistxattr, Notify),                           // 195
    (libc::SYS_flistxattr, Notify),                           // 196
    (libc::SYS_removexattr, Notify),                          // 197
    (libc::SYS_lremovexattr, Notify),                         // 198
    (libc::SYS_fremovexattr, Notify),                         // 199
    (libc::SYS_getdents64, Trace),                            // 217
    (libc::SYS_utimes, Notify),                               // 235
    (libc::SYS_inotify_add_watch, Trace),                     // 254
    (libc::SYS_openat, Notify),                               // 257
    (libc::SYS_mkdirat, Notify),                              // 258
    (libc::SYS_mknodat, Notify),                              // 259
    (libc::SYS_fchownat, Notify),                             // 260
    (libc::SYS_futimesat, Notify),                            // 261
    (libc::SYS_newfstatat, Notify),                           // 262
    (libc::SYS_unlinkat, Notify),                             // 263
    (libc::SYS_renameat, Notify),                             // 264
    (libc::SYS_linkat, Notify),                               // 265
    (libc::SYS_symlinkat, Notify),                            // 266
    (libc::SYS_readlinkat, Notify),                           // 267
    (libc::SYS_fchmodat, Notify),                             // 268
    (libc::SYS_faccessat, Notify),                            // 269
    (libc::SYS_unshare, Notify),                              // 272
    (libc::SYS_utimensat, Notify),                            // 280
    (libc::SYS_fanotify_init, Errno(libc::EPERM)),            // 300
    (libc::SYS_fanotify_mark, Errno(libc::EPERM)),            // 301
    (libc::SYS_name_to_handle_at, Errno(libc::EOPNOTSUPP)),   // 303
    (libc::SYS_open_by_handle_at, Errno(libc::EPERM)),        // 304
    (libc::SYS_setns, Notify),                                // 308
    (libc::SYS_process_vm_readv, Errno(libc::EPERM)),         // 310: the supervisor's memory could be reached
    (libc::SYS_process_vm_writev, Errno(libc::EPERM)),        // 311
    (libc::SYS_kcmp, Errno(libc::EPERM)),                     // 312
    (libc::SYS_renameat2, Notify),                            // 316
    (libc::SYS_execveat, Trace),                              // 322
    (libc::SYS_statx, Notify),                                // 332
    (libc::SYS_io_uring_setup, Errno(libc::ENOSYS)),          // 425
    (libc::SYS_io_uring_enter, Errno(libc::ENOSYS)),          // 426
    (libc::SYS_io_uring_register, Errno(libc::ENOSYS)),       // 427
    (libc::SYS_open_tree, Notify),                            // 428
    (libc::SYS_move_mount, Notify),                           // 429
    (libc::SYS_fsopen, Notify),                               // 430
    (libc::SYS_fsconfig, Notify),                             // 431
    (libc::SYS_fsmount, Notify),                              // 432
    (libc::SYS_fspick, Errno(libc::ENOSYS)),                  // 433
    (libc::SYS_clone3, Errno(libc::ENOSYS)), // 435: its flags lie in memory; libraries fall back to clone
    (libc::SYS_openat2, Notify),             // 437
    (libc::SYS_pidfd_getfd, Errno(libc::EPERM)), // 438
    (libc::SYS_faccessat2, Notify),          // 439
    (libc::SYS_mount_setattr, Notify),       // 442
    (libc::SYS_quotactl_fd, Errno(libc::EPERM)), // 443
    (libc::SYS_landlock_create_ruleset, Errno(libc::ENOSYS)), // 444: it would mean the real paths
    (libc::SYS_landlock_add_rule, Errno(libc::ENOSYS)), // 445
    (libc::SYS_landlock_restrict_self, Errno(libc::ENOSYS)), // 446
    (new::FCHMODAT2, Notify),                // 452
    (new::STATMOUNT, Errno(libc::ENOSYS)),   // 457
    (new::LISTMOUNT, Errno(libc::ENOSYS)),   // 458
    (new::SETXATTRAT, Notify),               // 463
    (new::GETXATTRAT, Notify),               // 464
    (new::LISTXATTRAT, Notify),              // 465
    (new::REMOVEXATTRAT, Notify),            // 466
    (new::OPEN_TREE_ATTR, Errno(libc::ENOSYS)), // 467
    (new::FILE_GETATTR, Errno(libc::ENOSYS)), // 468
    (new::FILE_SETATTR, Errno(libc::ENOSYS)), // 469
    (new::LISTNS, Errno(libc::ENOSYS)),      // 470
];

/// Whether the supervisor answers this call.
pub(crate) fn is_notified(number: i64) -> bool {
    let found = TABLE.binary_search_by_key(&number, |(known, _)| *known).ok().and_then(|index| TABLE.get(index));
    matches!(found, Some((_, Notify)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted() {
        assert!(TABLE.is_sorted_by(|a, b| a.0 < b.0));
        assert!(is_notified(libc::SYS_open) && !is_notified(libc::SYS_execve) && !is_notified(libc::SYS_read));
    }
}
