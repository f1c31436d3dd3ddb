# Sourced: require_java sets JAVA to a Java 17 or newer, or ends with one clear line.
require_java() {
  local how version
  how="install it: Debian 'sudo apt install openjdk-17-jre-headless' (from Debian 13 on: openjdk-21-jre-headless), Fedora 'sudo dnf install java-21-openjdk-headless', macOS 'brew install openjdk@17', then 'export JAVA_HOME=\$(brew --prefix openjdk@17)'"
  JAVA=${JAVA_HOME:+$JAVA_HOME/bin/}java
  if ! version=$("$JAVA" -version 2>&1); then
    echo "error: Assay needs Java 17 or newer and found none; $how" >&2
    exit 2
  fi
  version=$(sed -nE 's/.* version "([0-9]+).*/\1/p' <<<"$version" | head -n 1)
  if [ "${version:-0}" -lt 17 ]; then
    echo "error: Assay needs Java 17 or newer and found Java ${version:-of unknown version} ($JAVA); $how" >&2
    exit 2
  fi
}
