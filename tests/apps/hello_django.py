import asyncio

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path

settings.configure(SECRET_KEY="test", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], MIDDLEWARE=[])
django.setup()


async def hello(request):
    return HttpResponse("hello")


async def slow(request):
    await asyncio.sleep(2)
    return HttpResponse("slow hello")


urlpatterns = [path("", hello), path("slow", slow)]
app = get_asgi_application()
