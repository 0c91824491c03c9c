import java.net.*;
import java.net.http.*;

/** Fetches each URL with java.net.http: prints the protocol, the status and the body. */
public class Fetch {
    public static void main(String[] urls) throws Exception {
        var client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_2);
        var given = System.getenv("HTTPS_PROXY");
        if (given != null) { // Java reads no variable for its proxy, and sends it no password
            System.setProperty("jdk.http.auth.tunneling.disabledSchemes", "");
            var proxy = URI.create(given);
            var secret = proxy.getUserInfo().split(":", 2);
            client.proxy(ProxySelector.of(new InetSocketAddress(proxy.getHost(), proxy.getPort())));
            client.authenticator(new Authenticator() {
                @Override protected PasswordAuthentication getPasswordAuthentication() {
                    return new PasswordAuthentication(secret[0], secret[1].toCharArray());
                }
            });
        }
        var http = client.build();
        for (var url : urls) {
            var request = HttpRequest.newBuilder(URI.create(url)).build();
            var answer = http.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.version() + " " + answer.statusCode() + " " + answer.body());
        }
    }
}
