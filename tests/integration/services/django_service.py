"""Django with its admin, and the REST framework's router: `gunicorn django_service:application`."""

import os

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "django_settings"
django.setup()

from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.handlers.wsgi import WSGIHandler, WSGIRequest
from django.core.management import call_command
from django.http import JsonResponse
from django.urls import include, path
from rest_framework import routers, serializers, viewsets

#: Who may log in to the admin.
NAME, PASSWORD = "admin", "correct horse"


class GroupSerializer(serializers.ModelSerializer):  # type: ignore[misc]  # ships no types
    class Meta:
        model = Group
        fields = ("id", "name")


class Groups(viewsets.ModelViewSet):  # type: ignore[misc]  # ships no types
    queryset = Group.objects.order_by("id")
    serializer_class = GroupSerializer


def where(request: WSGIRequest) -> JsonResponse:
    """Tell what the application takes the request's address for."""
    return JsonResponse({"url": request.build_absolute_uri(), "secure": request.is_secure()})


router = routers.DefaultRouter()
router.register("groups", Groups)
urlpatterns = [
    path("admin/", admin.site.urls),
    path("api/", include(router.urls)),
    path("where/", where),
]

call_command("migrate", verbosity=0)
User.objects.filter(username=NAME).exists() or User.objects.create_superuser(NAME, "", PASSWORD)

application = StaticFilesHandler(WSGIHandler())
