#!/bin/sh
# Stands in for sudo where root runs the tests: sudo [-u USER] [NAME=VALUE ...] COMMAND [ARGUMENT ...]
set -e
user=root
if [ "$1" = -u ]; then
  user=$2
  shift 2
fi
while case "$1" in [A-Za-z_]*=*) true ;; *) false ;; esac; do
  export "$1"
  shift
done
[ "$user" != root ] || exec "$@"
# The folder we are in may not be readable for the other user.
cd /
exec setpriv --reuid "$user" --regid "$(id -g "$user")" --init-groups -- "$@"
