"""JupyterHub as docs/identity-headers.md says, and what a test needs: free ports and servers as plain processes."""

import os

from jupyterhub.auth import Authenticator


class RemoteUser(Authenticator):
    auto_login = True

    async def authenticate(self, handler, data=None):
        return handler.request.headers.get("Remote-User")


c = get_config()  # noqa: F821, of JupyterHub
match os.environ["AUTHENTICATOR"]:
    case "short":
        c.JupyterHub.authenticator_class = RemoteUser
    case "package":
        c.JupyterHub.authenticator_class = "jhub_remote_user_authenticator.remote_user_auth.RemoteUserAuthenticator"
        c.RemoteUserAuthenticator.header_name = "Remote-User"
c.Authenticator.allow_all = True
c.JupyterHub.oauth_token_expires_in = 300

port, hub, api = (int(number) for number in os.environ["PORTS"].split())
c.JupyterHub.bind_url = f"http://127.0.0.1:{port}"
c.JupyterHub.hub_bind_url = f"http://127.0.0.1:{hub}"
c.ConfigurableHTTPProxy.api_url = f"http://127.0.0.1:{api}"
c.ConfigurableHTTPProxy.command = os.environ["PROXY"]
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = os.environ["HOME"] + "/{username}"
c.Spawner.args = ["--allow-root"]

# A program with a token of the hub's own.
c.JupyterHub.services = [{"name": "robot", "api_token": os.environ["ROBOT"]}]
c.JupyterHub.load_roles = [{"name": "robot", "services": ["robot"], "scopes": ["read:users", "tokens"]}]
