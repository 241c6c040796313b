//! Settings that are written once for everybody and again, partly, for a database or a user.
//!
//! One macro makes both structs from one description: the whole one with its defaults, and the overlay in which
//! everything is optional. So a key, its docstring and its default exist once.

/// Keys under `everywhere` are in both structs, keys under `global` only in the whole one.
macro_rules! settings_with_overlay {
    (
        $(#[$whole_meta:meta])* struct $Whole:ident;
        $(#[$overlay_meta:meta])* struct $Overlay:ident;
        everywhere { $($(#[$meta:meta])* $key:ident: $type:ty = $default:expr,)* }
        global { $($(#[$global_meta:meta])* $global:ident: $global_type:ty = $global_default:expr,)* }
    ) => {
        #[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
        $(#[$whole_meta])*
        #[serde(default, deny_unknown_fields)]
        pub struct $Whole {
            $($(#[$meta])* pub $key: $type,)*
            $($(#[$global_meta])* pub $global: $global_type,)*
        }

        impl Default for $Whole {
            fn default() -> Self {
                Self { $($key: $default,)* $($global: $global_default,)* }
            }
        }

        impl $Whole {
            /// These settings with those of the overlay in their place, where it has any.
            #[must_use]
            pub fn overlaid(&self, overlay: &$Overlay) -> Self {
                Self {
                    $($key: overlay.$key.unwrap_or(self.$key),)*
                    $($global: self.$global,)*
                }
            }
        }

        #[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
        $(#[$overlay_meta])*
        #[serde(default, deny_unknown_fields)]
        pub struct $Overlay {
            $($(#[$meta])* pub $key: Option<$type>,)*
        }
    };
}

pub(super) use settings_with_overlay;
