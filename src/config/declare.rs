//! How a setting is declared, and what is made of its declaration.

use crate::config::kind::Form;

/// What is known of a setting before anybody sets it.
#[derive(Debug, Clone, Copy)]
pub struct Declared {
    /// The name of the flag (without its dashes) and of the key in the file.
    pub name: &'static str,
    /// The variable.
    pub variable: &'static str,
    /// How values are written.
    pub form: Form,
    /// What holds when nobody says anything.
    pub default: Default,
    /// What it does, for the help of the flag and for the README.
    pub help: &'static str,
    /// What only the README says besides, in Markdown; may be empty.
    pub more: &'static str,
}

/// What holds when nobody says anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Default {
    /// The value, as people write it; `None` where there is none, or where it follows from something
    /// else.
    pub value: Option<&'static str>,
    /// What it is in words, where there is more to say than the value.
    pub words: Option<&'static str>,
}

impl Default {
    /// As people read it; `None` where there is nothing to say.
    #[must_use]
    pub fn told(self) -> Option<&'static str> {
        self.words.or(self.value)
    }
}

/// Makes everything that is known of settings from their declarations: [`Key`](crate::config::Key),
/// [`Settings`](crate::config::Settings), and how these are read and shown.
///
/// The `default` is one of
///
/// - `value("5s")`: this value, as people write it; with a second text, the words that people read,
/// - `none()`: none; the field is an `Option`. With a text, that is what `check` shows, and the default
///   that people read; with two, the second is what they read,
/// - `found(found::function[field], "words")`: what the function makes of [`Found`](crate::config::found::Found) and
///   of the values of fields above.
macro_rules! settings {
    // The type of the field.
    (@type none $type:ty) => { Setting<Option<$type>> };
    (@type $how:ident $type:ty) => { Setting<$type> };

    // The default, as it is told.
    (@default value($value:literal)) => { Default { value: Some($value), words: None } };
    (@default value($value:literal, $words:literal)) => {
        Default { value: Some($value), words: Some($words) }
    };
    (@default none()) => { Default { value: None, words: None } };
    (@default none($shown:literal)) => { Default { value: None, words: Some($shown) } };
    (@default none($shown:literal, $words:literal)) => {
        Default { value: None, words: Some($words) }
    };
    (@default found($module:ident::$function:ident[$($field:ident),*], $words:literal)) => {
        Default { value: None, words: Some($words) }
    };

    // The setting, read.
    (@read $layers:ident, $found:ident, $key:expr, $kind:expr, value($($default:tt)*)) => {
        $layers.get_or_default($key, &$kind)?
    };
    (@read $layers:ident, $found:ident, $key:expr, $kind:expr, none($($words:tt)*)) => {
        match $layers.get($key, &$kind)? {
            Some(setting) => setting.map(Some),
            None => Setting::default(None),
        }
    };
    (
        @read $layers:ident, $found:ident, $key:expr, $kind:expr,
        found($module:ident::$function:ident[$($field:ident),*], $words:literal)
    ) => {
        match $layers.get($key, &$kind)? {
            Some(setting) => setting,
            None => $module::$function(&mut $found, $(&$field.value),*),
        }
    };

    // The value, shown.
    (@show $value:expr, $kind:expr, none()) => {
        settings!(@show $value, $kind, none("none"))
    };
    (@show $value:expr, $kind:expr, none($shown:literal $($words:tt)*)) => {
        $value.as_ref().map_or_else(|| $shown.to_owned(), $kind.show)
    };
    (@show $value:expr, $kind:expr, $how:ident($($default:tt)*)) => { ($kind.show)(&$value) };

    ($(
        $(#[$doc:meta])+
        $key:ident {
            name: $name:literal,
            variable: $variable:literal,
            field: $field:ident: $type:ty,
            kind: $kind:path,
            default: $how:ident($($default:tt)*),
            help: $help:literal,
            $(more: $more:literal,)?
        }
    )+) => {
        /// One setting. Its flag is `--name`, its key in the file `name`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Key {
            $($(#[$doc])+ $key,)+
        }

        impl Key {
            /// Every setting, in the order in which `check` shows them.
            pub const ALL: [Self; [$(Self::$key),+].len()] = [$(Self::$key),+];

            /// What is declared of it.
            #[must_use]
            pub fn declared(self) -> &'static Declared {
                match self {
                    $(Self::$key => const {
                        &Declared {
                            name: $name,
                            variable: $variable,
                            form: $kind.form,
                            default: settings!(@default $how($($default)*)),
                            help: $help,
                            more: concat!($($more)?),
                        }
                    },)+
                }
            }
        }

        /// Every setting, with the place it came from.
        #[derive(Debug, Clone)]
        pub struct Settings {
            $($(#[$doc])+ pub $field: settings!(@type $how $type),)+
            /// The file that was read, where there is one.
            pub file: Option<PathBuf>,
            /// Whom the configs directory belongs to, where root asks and it is there: the bearer is
            /// read with that user's rights.
            pub configs_owner: Option<u32>,
            /// The token of the environment.
            pub token: Setting<Option<Secret>>,
            /// The sources that the file describes, and the chain of them.
            pub tables: Tables,
            /// What is odd, though it does not stop anybody: full sentences without a full stop.
            pub warnings: Vec<String>,
        }

        impl Settings {
            /// Reads every setting; those that nobody set follow from what was found.
            pub(super) fn read(layers: &Layers<'_>, mut found: Found) -> anyhow::Result<Self> {
                $(let $field = settings!(@read layers, found, Key::$key, $kind, $how($($default)*));)+
                let Found { file, configs_owner, token, tables, warnings, .. } = found;
                let configs_owner = configs_owner.and_then(Result::ok);
                Ok(Self { $($field,)+ file, configs_owner, token, tables, warnings })
            }

            /// The value of a setting as people see it, and where it came from.
            pub(super) fn shown(&self, key: Key) -> (String, &Origin) {
                match key {
                    $(Key::$key => (
                        settings!(@show self.$field.value, $kind, $how($($default)*)),
                        &self.$field.origin,
                    ),)+
                }
            }
        }
    };
}

pub(super) use settings;
