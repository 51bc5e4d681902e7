"""A Django site as docs/identity-headers.md says: it knows people by RemoteUserMiddleware, and tells who it took a caller for."""

import os
import urllib.parse

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="of-a-test",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["DATABASE"]}},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        f"{__name__}.GatewayUser",
    ],
    AUTHENTICATION_BACKENDS=[f"{__name__}.GatewayBackend"],
)
django.setup()

from django.contrib.auth.backends import RemoteUserBackend  # noqa: E402, once it is set up
from django.contrib.auth.middleware import RemoteUserMiddleware  # noqa: E402
from django.contrib.auth.models import Group  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import JsonResponse  # noqa: E402
from django.urls import re_path  # noqa: E402


class GatewayUser(RemoteUserMiddleware):
    header = "HTTP_REMOTE_USER"


class GatewayBackend(RemoteUserBackend):
    def configure_user(self, request, user, created=True):
        user.email = urllib.parse.unquote(request.META.get("HTTP_REMOTE_EMAIL", ""))
        user.first_name = urllib.parse.unquote(request.META.get("HTTP_REMOTE_NAME", ""))
        user.save()
        groups = [urllib.parse.unquote(group) for group in request.META.get("HTTP_REMOTE_GROUPS", "").split(",") if group]
        user.groups.set([Group.objects.get_or_create(name=group)[0] for group in groups])
        return user


def who(request):
    user = request.user
    groups = sorted(user.groups.values_list("name", flat=True)) if user.is_authenticated else []
    answer = {"user": user.get_username(), "groups": groups}
    if user.is_authenticated:
        answer |= {"email": user.email, "name": user.first_name}
    return JsonResponse(answer)


urlpatterns = [re_path("", who)]
application = get_wsgi_application()
