//! `rbuild login` and `logout`.

use std::io::{self, IsTerminal, Read};
use std::sync::atomic::AtomicBool;

use rbuild_executor::manage::{self, Kept};

use crate::args::{Arity, Environment, LoginArgs, LogoutArgs, RegistryArgs, check_command_arity};
use crate::convert;
use crate::error::CliError;
use crate::output::Output;

/// Longest password on standard input, in bytes; tokens have a few thousand.
const MAX_PASSWORD: u64 = 64 * 1024;

/// Proves name and password to a registry and keeps them.
pub(crate) fn login(args: LoginArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    check_command_arity("login", "[OPTIONS] [SERVER]", Arity::AtMost(1), args.servers.len())?;
    let username = args.username.filter(|name| !name.is_empty()).ok_or(CliError::Login {
        message: "a user name is needed",
        hint: "give one with --username, and the password with --password-stdin",
    })?;
    let password = match (args.password, args.password_stdin) {
        (Some(_), true) => {
            return Err(CliError::Login {
                message: "--password and --password-stdin contradict each other",
                hint: "use --password-stdin",
            });
        }
        (Some(password), false) => {
            output.err("WARNING! Using --password via the CLI is insecure. Use --password-stdin.\n");
            password
        }
        (None, true) => read_password()?,
        (None, false) => {
            return Err(CliError::Login {
                message: "a password is needed",
                hint: "pipe it in: `rbuild login --username NAME --password-stdin SERVER < FILE`",
            });
        }
    };
    if password.is_empty() {
        return Err(CliError::Login { message: "the password is empty", hint: "pipe it in with --password-stdin" });
    }
    let access = convert::registry_access(&args.registry, environment);
    let server = args.servers.first().map(String::as_str);
    if let Kept::File(path) = manage::login(&access, server, &username, &password, &AtomicBool::new(false))? {
        output.err(format!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential helper to remove this \
             warning. See\nhttps://docs.docker.com/go/credential-store/\n\n",
            path.display()
        ));
    }
    output.out("Login Succeeded\n");
    Ok(())
}

/// Forgets what [`login`] kept.
pub(crate) fn logout(args: LogoutArgs, environment: &Environment, output: &mut Output) -> Result<(), CliError> {
    check_command_arity("logout", "[SERVER]", Arity::AtMost(1), args.servers.len())?;
    let access = convert::registry_access(&RegistryArgs::default(), environment);
    let server = args.servers.first().map(String::as_str);
    output.out(format!("Removing login credentials for {}\n", manage::server_name(server)));
    manage::logout(&access, server)?;
    Ok(())
}

/// The password on standard input, without the line feed at its end.
fn read_password() -> Result<String, CliError> {
    let failed = |source| CliError::Io { action: "read the password from standard input".to_owned(), source };
    if io::stdin().is_terminal() {
        return Err(CliError::Login {
            message: "the password would be seen on the terminal",
            hint: "redirect standard input from a file or a pipe",
        });
    }
    let mut text = String::new();
    io::stdin().lock().take(MAX_PASSWORD).read_to_string(&mut text).map_err(failed)?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}
