// Fetches each URL with net/http: prints the protocol, the status and the body.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	for _, url := range os.Args[1:] {
		answer, err := http.Get(url)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		body, err := io.ReadAll(answer.Body)
		fmt.Println(answer.Proto, answer.StatusCode, string(body), err)
	}
}
