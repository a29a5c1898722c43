{
  description = "A fleet of NixOS-shaped hosts, replayed from a recording";

  inputs.channel.url = "@channel@";

  outputs =
    { self, channel }:
    {
      nixosConfigurations = builtins.listToAttrs (
        map (name: {
          inherit name;
          value = channel.lib.system name;
        }) (builtins.fromJSON (builtins.readFile ./hosts.json))
      );
    };
}
