# Turns the nodes of a recorded build graph into real derivations: same names, outputs and edges; builders
# that wait instead of compiling. Evaluates only the nodes that are asked for.
#
# The builder is a bare shell: the sandbox holds nothing else, so no test of the machine's tools is hidden here.
{ nodes, settings }:
let
  derivations = map make nodes;

  make =
    node:
    derivation (
      {
        inherit (node) name outputs;
        # Recorded for one system, replayed on whichever there is, unless the node says where it belongs.
        system = node.replay_system or settings.system;
        builder = "/bin/sh";
        wait = waitOf node;
        kept = inputs true node;
        used = inputs false node;
      }
      // (if node.fixed or false then source node else package node)
      // flag "preferLocalBuild" true (node.prefer_local or false)
      // flag "requiredSystemFeatures" node.features (node ? features)
    );

  # Some shells wait for ever when so short a time is over before they wait for it; starting a builder takes longer.
  waitOf =
    node:
    let
      milliseconds = node.cost_ms / (1.0 * settings.divisor);
    in
    if milliseconds < 10 then "0" else toString (milliseconds / 1000);

  package =
    node:
    {
      args = [ "-c" packageScript ];
      bytes = toString (1024 * (if node.size_kib < settings.maxKib then node.size_kib else settings.maxKib));
    }
    // flag "allowSubstitutes" false (node.no_substitutes or false);

  # A source's content follows from its name, so that a cache can have it before anything is evaluated.
  source = node: {
    args = [ "-c" sourceScript ];
    outputHashMode = "flat";
    outputHashAlgo = "sha256";
    outputHash = builtins.hashString "sha256" "replayed source ${node.name}\n";
  };

  # The outputs that a node takes from others, either to keep as references or only to build with.
  inputs =
    runtime: node:
    builtins.concatMap (
      edge:
      let
        input = builtins.elemAt derivations (builtins.elemAt edge 0);
      in
      if builtins.elemAt edge 2 == runtime then map (output: input.${output}) (builtins.elemAt edge 1) else [ ]
    ) node.deps;

  flag = name: value: set: if set then { ${name} = value; } else { };

  # The builder's terminal never says anything, so that a read from it waits: a bare shell has no other way. Whoever
  # wants to know which builders ran puts a file or a pipe at /journal into the sandbox.
  start = ''
    eval "first=\$''${outputs%% *}"
    [ ! -e /journal ] || echo "$name $first" >> /journal
    [ "$wait" = 0 ] || read -t "$wait" ignored <&2 || :
  '';

  packageScript = ''
    ${start}
    for output in $outputs; do
      eval "path=\$$output"
      {
        echo "$name, output $output"
        case $output in
          out | bin | lib | dev | su) for input in $kept; do echo "$input"; done ;;
        esac
        printf "%''${bytes}s\n" ""
      } > "$path"
    done
  '';

  sourceScript = ''
    ${start}
    echo "replayed source $name" > "$out"
  '';
in
derivations
