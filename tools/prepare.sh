#!/usr/bin/env bash
# Makes ready what the tests use beside Go: on Debian as root it installs what is missing and starts a Docker Engine if none
# answers; elsewhere it names what is missing, and the tests that need it say so when they skip.
set -u
need=(gcc:gcc chromium:chromium certutil:libnss3-tools dockerd:docker.io dig:dnsutils skopeo:skopeo openssl:openssl nft:nftables ip:iproute2)
missing=() ; packages=()
for n in "${need[@]}"; do
  command -v "${n%%:*}" >/dev/null 2>&1 || PATH="$PATH:/usr/sbin:/sbin" command -v "${n%%:*}" >/dev/null 2>&1 || { missing+=("${n%%:*}"); packages+=("${n##*:}"); }
done
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "prepare: installing ${packages[*]}"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${packages[@]}"; } >/dev/null 2>&1 ||
      echo "prepare: could not install all of: ${packages[*]}"
  else
    echo "prepare: not installed here: ${missing[*]} (Debian: apt-get install ${packages[*]}); the tests that use them are skipped by name"
  fi
fi
if [ ! -S /var/run/docker.sock ] || ! docker version >/dev/null 2>&1; then
  if [ "$(id -u)" = 0 ] && command -v dockerd >/dev/null 2>&1; then
    echo "prepare: starting dockerd"
    (setsid dockerd >/tmp/mc-dockerd.log 2>&1 &)
    for _ in $(seq 1 60); do docker version >/dev/null 2>&1 && break; sleep 0.5; done
  fi
fi
if docker version >/dev/null 2>&1; then echo "prepare: Docker answers"; else echo "prepare: no Docker Engine answers; Docker tests are skipped by name"; fi
exit 0
