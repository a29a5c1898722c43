# Debian packages without root and without installing: fetched and checked by apt with the machine's mirror and
# Debian's keys, unpacked below a private prefix. Sourced by the ensure-* scripts; needs `say`, and `work`, a
# directory of their own that they remove.

# An apt of our own: the machine's mirror and proxies, another suite, no installed packages.
configure_apt() {
  local codename mirror keyring options=""
  # shellcheck disable=SC1091
  codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
  mirror=$(apt-get update --print-uris 2>/dev/null \
    | sed -n "s|^'\([^']*\)/dists/$codename/\(In\)\{0,1\}Release'.*|\1|p" | head -n 1)
  if [ -z "$codename" ] || [ -z "$mirror" ]; then
    say "apt's sources name no mirror for this system's release"
    return 1
  fi
  for keyring in /usr/share/keyrings/debian-archive-keyring.pgp /usr/share/keyrings/debian-archive-keyring.gpg; do
    [ ! -e "$keyring" ] || options="[signed-by=$keyring]"
  done
  mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial"
  : >"$work/state/status"
  printf 'deb %s %s %s main\n' "$options" "$mirror" "$1" >"$work/sources.list"
}

private_apt() {
  apt-get -q -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null \
    -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
    -o Dir::State="$work/state" -o Dir::State::status="$work/state/status" -o Dir::Cache="$work/cache" \
    -o Debug::NoLocking=1 -o APT::Sandbox::User= -o Acquire::Languages=none \
    -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false \
    -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false \
    -o Acquire::Retries=3 "$@"
}

# Fetches the packages that `$1` accepts among those that `$@` depend on.
fetch_packages() {
  local accepted=$1 wanted
  shift
  wanted=$(private_apt install -y --no-install-recommends --print-uris "$@" \
    | sed -n "s/^'[^']*' \([^_ ]*\)_.*/\1/p" \
    | grep -E "^($accepted|lib.*)\$" \
    | grep -vE '^lib(perl|pam-|semanage|sepol|debconf|gdbm|db5|llvm|.*-perl$|.*-common$|c-gconv|sasl2-modules)') \
    || return 1
  # shellcheck disable=SC2086
  (cd "$work" && private_apt download $wanted >&2)
}

# Unpacks what was fetched into `$work/root`, and puts its libraries, flat, into the directory `$1`.
unpack_packages() {
  local package
  mkdir -p "$work/root" "$1"
  for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work/root" || return 1; done
  find "$work/root/usr/lib" "$work/root/lib" -name '*.so*' -exec cp -a -n -t "$1" {} + 2>/dev/null || true
}

# Tells the programs `$3…` where their loader and libraries are going to be, `$2`, so that they need no environment
# and leave none to the programs they start. For now these are in `$1`.
patch_programs() {
  local now=$1 later=$2 loader
  shift 2
  loader=$(find "$now" -maxdepth 1 -name 'ld-linux*.so*' | head -n 1)
  [ -n "$loader" ] || return 1
  "$loader" --library-path "$now" "$work/root/usr/bin/patchelf" \
    --set-interpreter "$later/$(basename "$loader")" --force-rpath --set-rpath "$later" "$@" || return 1
  # Tried before anything is moved into place.
  "$loader" --library-path "$now" "$1" --version >/dev/null
}
