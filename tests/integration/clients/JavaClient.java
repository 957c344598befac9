// Java's HttpClient with its defaults, which prefer HTTP/2: `java JavaClient.java URL` prints what it got, as lists in JSON.
import java.io.ByteArrayInputStream;
import java.net.CookieManager;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.net.http.WebSocket;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;

public class JavaClient {
    static String base;
    static boolean isFirst = true;
    static final HttpClient CLIENT = HttpClient.newBuilder()
            .followRedirects(HttpClient.Redirect.NORMAL).cookieHandler(new CookieManager()).build();

    public static void main(String[] arguments) throws Exception {
        base = arguments[0];
        byte[] large = new byte[3 * 1024 * 1024];
        BodyPublisher nothing = BodyPublishers.noBody();
        ask("get", "GET", "/echo/a?x=1&y%5B%5D=2", nothing);
        ask("post", "POST", "/echo/a", BodyPublishers.ofString("{\"a\":\"ü\"}"));
        ask("empty", "POST", "/echo/a", nothing);
        ask("large", "PUT", "/echo/a", BodyPublishers.ofByteArray(large));
        ask("stream", "POST", "/echo/a", BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(large)));
        ask("path", "GET", new URI(null, null, "/echo/a file [1] {x}|^ü'.txt", null).toString(), nothing);
        ask("redirect", "GET", "/redirect", nothing);
        ask("head", "HEAD", "/echo/a", nothing);
        ask("options", "OPTIONS", "/echo/a", nothing);
        ask("delete", "DELETE", "/echo/a", nothing);
        ask("nothing", "GET", "/status/204", nothing);
        ask("parts", "GET", "/drip", nothing);
        ask("set", "GET", "/cookies", nothing);
        ask("cookies", "GET", "/echo/a", nothing);
        webSocket();
    }

    static void ask(String name, String method, String target, BodyPublisher body) {
        try {
            HttpRequest request = HttpRequest.newBuilder(URI.create(base + target)).method(method, body).build();
            var response = CLIENT.send(request, BodyHandlers.ofString());
            print(name, response.statusCode(), response.body());
        } catch (Exception error) {
            print(name, 0, error.toString());
        }
    }

    static void webSocket() {
        CompletableFuture<String> got = new CompletableFuture<>();
        WebSocket.Listener listener = new WebSocket.Listener() {
            @Override
            public CompletionStage<?> onText(WebSocket socket, CharSequence data, boolean last) {
                got.complete(data.toString());
                socket.request(1);
                return null;
            }
        };
        try {
            URI uri = URI.create(base.replace("http", "ws") + "/ws");
            WebSocket socket = CLIENT.newWebSocketBuilder().buildAsync(uri, listener).get(20, TimeUnit.SECONDS);
            socket.sendText("hello", true).get(20, TimeUnit.SECONDS);
            String text = got.get(20, TimeUnit.SECONDS);
            socket.sendClose(1000, "enough").get(20, TimeUnit.SECONDS);
            print("websocket", 1000, text);
        } catch (Exception error) {
            print("websocket", 0, error.toString());
        }
    }

    // As JSON, with commas between.
    static void print(String name, int status, String body) {
        String text = body.replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", "\\n").replace("\r", "\\r");
        String line = (isFirst ? "" : ",") + "[\"" + name + "\", " + status + ", \"" + text + "\"]\n";
        isFirst = false;
        byte[] bytes = line.getBytes(StandardCharsets.UTF_8);
        System.out.write(bytes, 0, bytes.length);
        System.out.flush();
    }
}
